"""The instrumentor by itself, and beside those of others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
import wrapt
from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import FakeListChatModel
from langchain_core.tracers import context
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedLLM
from agentlightning.types import PromptTemplate
from lightning_adapter_langchain import LangChainAdapter, LangChainInstrumentor

PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.instrumentation import auto_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

auto_instrumentation.initialize()  # as the command `opentelemetry-instrument` does
if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
    trace.set_tracer_provider(TracerProvider())
exporter = InMemorySpanExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="m", base_url=sys.argv[1], api_key="k")
create_agent(model, tools=[], name="helper").invoke({"messages": [{"role": "user", "content": "hello"}]})
for span in exporter.get_finished_spans():
    print(span.name, "hello" in str(dict(span.attributes)))
"""


def test_it_works_under_opentelemetry_instrument() -> None:
    environment = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
    }
    with ScriptedLLM() as llm:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, llm.base_url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout.splitlines() == ["chat m True", "model False", "invoke_agent helper False"], (
        done.stderr
    )


def test_its_entry_point_is_the_class() -> None:
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="agl_langchain")
    assert entry.load() is LangChainInstrumentor
    assert LangChainInstrumentor().instrumentation_dependencies() == ("langchain-core >= 1.2.18, < 2",)


def test_its_hooks_load_nothing_of_the_framework() -> None:
    program = "import sys, lightning_adapter_langchain.hooks as h; h.agl_register_adapters(); "
    program += (
        "print([name for name in sys.modules if name.startswith(('langchain', 'langgraph', 'openai'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_instrumentation_of_the_users_own_outlives_the_adapter(provider: TracerProvider) -> None:
    LangChainInstrumentor().instrument(tracer_provider=provider)
    adapter = LangChainAdapter()
    adapter.instrument(provider)
    adapter.uninstrument()
    assert LangChainInstrumentor().is_instrumented_by_opentelemetry
    LangChainInstrumentor().uninstrument()


@pytest.fixture
def somebody_elses() -> Iterator[None]:
    """LangChain as another package instruments it."""

    def wrapper(method: Any, _: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return method(*args, **kwargs)

    wrapper.__module__ = "openinference.instrumentation.langchain"
    original = BaseCallbackManager.__init__
    BaseCallbackManager.__init__ = wrapt.FunctionWrapper(original, wrapper)  # type: ignore[method-assign]
    yield
    BaseCallbackManager.__init__ = original  # type: ignore[method-assign]


def test_beside_another_instrumentation_it_binds_and_does_not_record(
    stage: Any, provider: TracerProvider, somebody_elses: None
) -> None:
    hooks = list(context._configure_hooks)
    stage.adapter.uninstrument()
    assert len(context._configure_hooks) == len(hooks) - 1
    stage.adapter.instrument(provider)
    rollout = stage.rollout(resources={"model": PromptTemplate(template="other")})
    model = stage.model()
    with in_rollout(rollout), stage.adapter.bind(model, rollout):
        FakeListChatModel(responses=["x"]).invoke("hi")
        model.invoke("hi")
    assert [span.name for span in stage.spans] == ["chat other"]
