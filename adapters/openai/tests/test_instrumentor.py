"""The instrumentor by itself, and beside those of others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import wrapt
from openai.resources.chat.completions import Completions
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from lightning_adapter_openai import OpenAIAdapter, OpenAIInstrumentor

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def bare() -> Iterator[None]:
    """Leaves the SDK as it was found."""
    kept = Completions.__dict__["create"]
    yield
    Completions.create = kept  # type: ignore[method-assign]


def ask(base_url: str) -> None:
    with openai.OpenAI(
        base_url=base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False)
    ) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)


PROGRAM = """
import sys
import openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from lightning_adapter_openai import OpenAIInstrumentor

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
OpenAIInstrumentor().instrument()
client = openai.OpenAI(base_url=sys.argv[1], api_key="k")
client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
for span in exporter.get_finished_spans():
    print(span.name, sorted(span.attributes))
"""


@pytest.mark.parametrize("content", ["", "true"])
def test_it_works_in_a_program_that_knows_nothing_of_us(content: str) -> None:
    environment = {**os.environ, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": content}
    with ScriptedLLM() as llm:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, llm.base_url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        (request,) = llm.requests
    assert done.stdout.startswith("chat m ["), done.stderr
    assert ("gen_ai.input.messages" in done.stdout) == bool(content)
    assert "traceparent" not in request.headers


def test_its_entry_point_is_the_class() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="opentelemetry_instrumentor", name="agl_openai")
    assert entry.load() is OpenAIInstrumentor
    assert OpenAIInstrumentor().instrumentation_dependencies() == ("openai >= 2, < 4",)


def test_an_instrumentation_of_the_users_own_outlives_the_adapter(provider: TracerProvider) -> None:
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    adapter = OpenAIAdapter()
    adapter.instrument(provider)
    adapter.uninstrument()
    assert OpenAIInstrumentor().is_instrumented_by_opentelemetry
    OpenAIInstrumentor().uninstrument()


def somebody_elses(module: str) -> wrapt.FunctionWrapper:
    """The SDK as another package has wrapped it."""

    def wrapper(method: Any, _: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return method(*args, **kwargs)

    wrapper.__module__ = module
    return wrapt.FunctionWrapper(Completions.__dict__["create"], wrapper)


def test_beside_another_instrumentation_it_binds_and_does_not_record(
    bare: None, provider: TracerProvider, stage: Any
) -> None:
    adapter = OpenAIAdapter()
    OpenAIInstrumentor().uninstrument()
    wrapped = somebody_elses("opentelemetry.instrumentation.openai_v2.patch")
    Completions.create = wrapped  # type: ignore[method-assign,assignment]
    adapter.instrument(provider)
    with in_rollout(stage.rollout()):
        ask("http://127.0.0.1:9/v1")
    adapter.uninstrument()
    assert len(stage.llm.requests) == 1
    assert stage.spans == []
    assert Completions.__dict__["create"] is wrapped
    OpenAIInstrumentor().instrument(tracer_provider=provider)


def test_below_the_span_of_another_instrumentation_it_does_not_record(
    provider: TracerProvider, stage: Any
) -> None:
    tracer = provider.get_tracer("opentelemetry.instrumentation.openai.v1")
    with in_rollout(stage.rollout()), tracer.start_as_current_span("openai.chat") as span:
        ask("http://127.0.0.1:9/v1")
        expected = f"{span.get_span_context().span_id:016x}"
    assert [found.name for found in stage.spans] == ["openai.chat"]
    assert stage.llm.requests[0].headers["traceparent"].split("-")[2] == expected


def test_under_a_wrapper_that_came_later_it_goes_quiet(
    bare: None, provider: TracerProvider, stage: Any
) -> None:
    later = somebody_elses("somebody")
    Completions.create = later  # type: ignore[method-assign,assignment]
    OpenAIInstrumentor().uninstrument()
    assert Completions.__dict__["create"] is later
    with ScriptedLLM(lambda _: ScriptedAnswer(text="own")) as own, in_rollout(stage.rollout()):
        ask(own.base_url)
        assert len(own.requests) == 1
    assert stage.spans == []
    OpenAIInstrumentor().instrument(tracer_provider=provider)
