"""Command-line agents as black boxes: every call of every process is recorded for its attempt, and nothing is left."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import CommandAgent, HttpUpstream, Trainer
from agentlightning.jobs import open_configured
from agentlightning.plugins import load_plugins
from agentlightning.store import SpanQuery, open_store
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedRequest
from agentlightning.types import FailureClass, RolloutStatus, Span

pytest.importorskip("lightning_plugin_gateway")

if TYPE_CHECKING:
    from agentlightning.store import Store

AGENT = '''
"""An agent as many are written: two calls on either wire, with nothing but the standard library."""
import json, os, sys, urllib.request

def post(url, body, headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)

def openai(text):
    body = {"model": os.environ["OPENAI_MODEL"], "messages": [{"role": "user", "content": text}]}
    key = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    return post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, key)["choices"][0]["message"]["content"]

def anthropic(text):
    body = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    key = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
    return post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", body, key)["content"][0]["text"]

task = json.loads(sys.argv[1])
print(json.dumps([openai(f"{task} first"), anthropic(f"{task} second")]))
'''


def echo(request: ScriptedRequest) -> ScriptedAnswer:
    message: Any = request.json["messages"][-1]  # type: ignore[index]
    return ScriptedAnswer(text=f"re: {message['content']}")


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM(echo) as serving:
        yield serving


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def trainer_of(agent: object, store: Store, llm: ScriptedLLM, **settings: Any) -> Trainer:
    upstream = HttpUpstream(base_url=llm.base_url, wires=("chat",))
    return Trainer(
        agent,
        store=store,
        upstreams={"*": upstream},
        model="tiny",
        max_attempts=1,
        plugins=load_plugins(names=["gateway"]),
        **settings,
    )


def project(tmp_path: Path) -> str:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "agent.py").write_text(AGENT)
    return str(folder)


async def spans_of(store: Store) -> list[Span]:
    found: list[Span] = []
    cursor = None
    while True:
        page = await store.spans.page(SpanQuery(), cursor=cursor)
        found += page.items
        if page.cursor is None:
            return found
        cursor = page.cursor


async def test_sixteen_at_once_have_every_call_recorded_for_their_own_attempt(
    store: Store, llm: ScriptedLLM, tmp_path: Path
) -> None:
    agent = CommandAgent(
        ["{python}", "agent.py", "{task}"],
        folder=project(tmp_path),
        parent=str(tmp_path / "attempts"),
        result="json",  # type: ignore[arg-type]
    )
    outputs: list[tuple[object, object]] = []

    def grader(task: object, output: object) -> float:
        outputs.append((task, output))
        return float(output == [f"re: {task} first", f"re: {task} second"])

    trainer = trainer_of(agent, store, llm, concurrency=16, graders=[grader])
    report = await trainer.aevaluate(list(range(16)))
    assert report.mean == 1.0, outputs
    spans = await spans_of(store)
    calls = [span for span in spans if span.operation == "chat"]
    assert Counter(span.attempt_id for span in calls) == dict.fromkeys({span.attempt_id for span in spans}, 2)
    assert len(calls) == 32
    tasks = {span.attempt_id: span.attributes["agl.task"] for span in spans if "agl.task" in span.attributes}
    for span in calls:
        (message,) = span.attributes["gen_ai.input.messages"]  # type: ignore[misc]
        assert message["content"].split()[0] == str(tasks[span.attempt_id])
        assert "agl.incomplete" not in span.attributes
    assert list((tmp_path / "attempts").iterdir()) == []


async def test_calls_belong_to_the_trace_of_the_attempt_when_the_command_passes_it_on(
    store: Store, llm: ScriptedLLM, tmp_path: Path
) -> None:
    source = AGENT.replace(
        '{"content-type": "application/json", **headers}',
        '{"content-type": "application/json", "traceparent": os.environ["TRACEPARENT"], **headers}',
    )
    (tmp_path / "agent.py").write_text(source)
    agent = CommandAgent(["{python}", str(tmp_path / "agent.py"), "{task}"])
    await trainer_of(agent, store, llm, graders=[lambda task, output: 1.0]).aevaluate([1])
    spans = await spans_of(store)
    (root,) = [span for span in spans if span.name == "rollout"]
    calls = [span for span in spans if span.operation == "chat"]
    assert {(span.trace_id, span.parent_id) for span in calls} == {(root.trace_id, root.span_id)}


async def test_no_key_of_an_attempt_is_stored_or_logged(
    store: Store, llm: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    agent = CommandAgent(["sh", "-c", "env; env >&2; exit {task}"])
    await trainer_of(agent, store, llm).aevaluate([0, 1])
    rollouts = (await store.rollouts.list(limit=10)).items
    attempts = await store.rollouts.attempts([rollout.id for rollout in rollouts])
    kept = repr([rollouts, attempts, await spans_of(store), caplog.text])
    assert "OPENAI_API_KEY=***" in kept
    assert not re.search(r"agl-[A-Za-z0-9_-]{40,}", kept)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")
async def test_a_command_that_takes_too_long_is_a_time_out_with_its_last_words(
    store: Store, llm: ScriptedLLM, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = f"echo thinking; (setsid sleep 600 & echo $! > {pids}/{{task}}; wait)"
    agent = CommandAgent(["sh", "-c", script], grace_s=0.1, timeout_s=2.0)
    await trainer_of(agent, store, llm).aevaluate([1, 2, 3])
    rollouts = (await store.rollouts.list(limit=10)).items
    attempts = await store.rollouts.attempts([rollout.id for rollout in rollouts])
    assert [rollout.status for rollout in rollouts] == [RolloutStatus.FAILED] * 3
    for attempt in attempts:
        assert attempt.failure is not None
        assert attempt.failure.kind is FailureClass.TIMED_OUT
        assert "its last words on stdout: 'thinking'" in (attempt.failure.detail or "")
    started = [int(file.read_text()) for file in pids.iterdir()]
    assert len(started) == 3
    assert [pid for pid in started if os.path.exists(f"/proc/{pid}")] == []  # noqa: ASYNC240, PTH110


@pytest.mark.parametrize("told", [True, False], ids=["a server that is named", "the store's own server"])
async def test_spans_of_a_commands_own_exporter_join_its_attempt(
    llm: ScriptedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    testing = pytest.importorskip("lightning_plugin_server.testing")
    exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    assert exporter
    source = """
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
import os
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
parent = propagate.extract({"traceparent": os.environ["TRACEPARENT"]})
with provider.get_tracer("cli").start_as_current_span("tool", context=parent):
    pass
provider.shutdown()
"""
    monkeypatch.setenv("AGL_KEY", "a key for tests only")
    with testing.running_server(f"sqlite:///{tmp_path}/s.db") as server:
        agent = CommandAgent(["{python}", "-c", source], telemetry=server.url if told else None)
        url = f"sqlite:///{tmp_path}/s.db" if told else server.url
        async with open_configured(url, load_plugins()) as shared:
            await trainer_of(agent, shared, llm, graders=[lambda task, output: 1.0]).aevaluate([1])
            spans = {span.name: span for span in await spans_of(shared)}
    assert spans["tool"].parent_id == spans["rollout"].span_id
    assert spans["tool"].attempt_id == spans["rollout"].attempt_id
