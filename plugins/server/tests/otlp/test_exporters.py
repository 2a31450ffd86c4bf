"""Official exporters in processes of their own, configured by nothing but their environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agentlightning import semconv
from agentlightning.credentials import Scope
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from agentlightning.types import Experience, Span, SpanSource, SpanStatus, TokenRecord

SPECS = {spec.name: spec for spec in BUILTIN_STAGES}
TEXT = "What is 1 + 1?"

PROTO_EXPORTER = "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter"
JSON_EXPORTER = "from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter"
BY_HAND = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("somebody", "1.0")
for number in range(600):
    with tracer.start_as_current_span("outer", attributes={"number": number, "list": ["a", "b"]}) as span:
        span.add_event("seen", {"what": "it"})
with tracer.start_as_current_span("last"):
    raise_it = False
provider.shutdown()
"""

AGENT = f"""
from opentelemetry import trace

tracer = trace.get_tracer("somebody.agent")
with tracer.start_as_current_span(
    "invoke_agent writer",
    attributes={{"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "writer"}},
):
    with tracer.start_as_current_span(
        "chat m",
        attributes={{
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m",
            "gen_ai.response.id": "response-1",
            "gen_ai.input.messages": '[{{"role": "user", "parts": [{{"type": "text", "content": "{TEXT}"}}]}}]',
            "gen_ai.output.messages": '[{{"role": "assistant", "parts": [{{"type": "text", "content": "2"}}]}}]',
        }},
    ) as span:
        span.add_event(
            "gen_ai.evaluation.result",
            {{"gen_ai.evaluation.name": "correct", "gen_ai.evaluation.score.value": 1.0}},
        )
"""

WITH_TOKENS = """
from opentelemetry import trace

attributes = {
    "gen_ai.operation.name": "chat",
    "agl.tokens.prompt": [1, 2],
    "agl.tokens.response": [3, 4],
    "agl.logprobs": [-0.5, -0.25],
    "agl.policy.version": 7,
}
trace.get_tracer("somebody").start_span("chat m", attributes=attributes).end()
"""

LOGGING = """
import logging

from opentelemetry import trace

with trace.get_tracer("somebody").start_as_current_span("work"):
    logging.getLogger("agent").warning("something %s", "odd")
"""

SDK = """
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="k")
client.chat.completions.create(model="m", messages=[{"role": "user", "content": sys.argv[2]}])
"""


def environment(site: Any, key: str, **more: str) -> dict[str, str]:
    """What an OpenTelemetry program reads, and nothing of this process's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {
        **kept,
        "OTEL_EXPORTER_OTLP_ENDPOINT": site.server.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote(f'Bearer {key}')}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OPENAI_API_KEY": "k",
        **more,
    }


def run(folder: Path, program: str, *arguments: str, env: dict[str, str], instrumented: bool = False) -> None:
    """Runs a program, and fails with what it wrote if it wrote anything."""
    path = folder / "program.py"
    path.write_text(program)
    python = [sys.executable, str(path), *arguments]
    launcher = [str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")] if instrumented else []
    done = subprocess.run(
        [*launcher, *python], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def trajectory_of(site: Any) -> Any:
    """The trajectory of the first attempt, through the whole default pipeline."""
    pipeline = Pipeline.from_specs(SPECS, load=lambda spec: load_target(spec.target))
    done = pipeline.run(Experience(episodes=(site.episode(reward=0.5),)))
    (trajectory,) = done.trajectories
    assert done.forest is not None
    assert done.forest.size > 0
    return trajectory


def gateway_span(site: Any, response_id: str, parent_id: str | None = None) -> Span:
    """The record of a call, as a gateway writes it."""
    lease = site.leases[0]
    return Span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id="00000000000000cc",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        parent_id=parent_id,
        name="chat m",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=1,
        end_ns=2,
        status=SpanStatus.OK,
        attributes={semconv.RESPONSE_ID: response_id},
        tokens=(TokenRecord.pack([1, 2], [3], [-0.5], version=4),),
    )


@pytest.mark.parametrize("exporter", [PROTO_EXPORTER, JSON_EXPORTER], ids=["protobuf", "json"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_official_exporters_deliver_every_span(
    site: Any, tmp_path: Path, exporter: str, compression: str
) -> None:
    env = environment(site, site.agent_key(), OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    run(tmp_path, exporter + BY_HAND, env=env)
    spans = site.spans()
    assert len(spans) == 601
    assert sorted(span.attributes["number"] for span in spans if span.name == "outer") == list(range(600))
    first = spans[0]
    assert first.attributes["list"] == ["a", "b"]
    assert first.attributes["otel.scope.version"] == "1.0"
    (event,) = first.attributes["agl.events"]
    assert (event["name"], event["attributes"]) == ("seen", {"what": "it"})


@pytest.mark.parametrize("traces_exporter", ["otlp", "otlp_json_http"])
def test_calls_of_an_instrumented_program_become_transitions(
    site: Any, tmp_path: Path, traces_exporter: str
) -> None:
    env = environment(site, site.agent_key(), OTEL_TRACES_EXPORTER=traces_exporter)
    run(tmp_path, AGENT, env=env, instrumented=True)
    site.append(gateway_span(site, "response-1"))
    trajectory = trajectory_of(site)
    (transition,) = trajectory.transitions
    assert transition.agent == "writer"
    assert transition.state == {"messages": [{"role": "user", "parts": [{"type": "text", "content": TEXT}]}]}
    assert transition.action == {"role": "assistant", "parts": [{"type": "text", "content": "2"}]}
    assert list(transition.tokens.response_ids) == [3]
    assert transition.reward == 1.0


def test_resource_attributes_name_the_attempt_and_a_runner_brings_tokens(site: Any, tmp_path: Path) -> None:
    pairs = ",".join(f"{key}={quote(value)}" for key, value in site.ids.items())
    env = environment(site, site.server.key_for(Scope.RUNNER), OTEL_RESOURCE_ATTRIBUTES=pairs)
    run(tmp_path, WITH_TOKENS, env=env, instrumented=True)
    (transition,) = trajectory_of(site).transitions
    assert list(transition.tokens.prompt_ids) == [1, 2]
    assert list(transition.tokens.response_logprobs) == [-0.5, -0.25]
    assert transition.tokens.version == 7


def test_lines_of_a_log_arrive_below_their_span(site: Any, tmp_path: Path) -> None:
    env = environment(
        site,
        site.agent_key(),
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true",
    )
    path = tmp_path / "program.py"
    path.write_text(LOGGING)
    launcher = Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument"
    done = subprocess.run(
        [launcher, sys.executable, path], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    spans = {span.operation: span for span in site.spans()}
    line, work = spans["agl.message"], spans["agl.operation"]
    assert line.attributes["agl.message"] == "something odd"
    assert (line.parent_id, line.trace_id) == (work.span_id, work.trace_id)


def test_an_sdk_that_opentelemetry_instruments_is_captured(site: Any, tmp_path: Path) -> None:
    pytest.importorskip("lightning_adapter_openai", reason="the adapter of the SDK is not installed")
    env = environment(site, site.agent_key(), OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="span_only")
    with ScriptedLLM(lambda _: ScriptedAnswer(text="2")) as llm:
        run(tmp_path, SDK, llm.base_url, TEXT, env=env, instrumented=True)
    (call,) = [span for span in site.spans() if span.operation == "chat"]
    site.append(gateway_span(site, str(call.attributes[semconv.RESPONSE_ID]), call.span_id))
    (transition,) = trajectory_of(site).transitions
    assert transition.state["messages"][0]["parts"][0]["content"] == TEXT
    assert transition.action["parts"][0]["content"] == "2"
    assert list(transition.tokens.response_ids) == [3]
