"""The instrumentor by itself, in a program that knows nothing of us."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedToolCall
from lightning_adapter_autogen import AutoGenAdapter, AutoGenInstrumentor

PROGRAM = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

from lightning_adapter_autogen import AutoGenInstrumentor
AutoGenInstrumentor().instrument()

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

info = dict(vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True)
client = OpenAIChatCompletionClient(model="m", base_url=sys.argv[1], api_key="k", model_info=info)
agent = AssistantAgent("calculator", model_client=client, tools=[add], reflect_on_tool_use=True)
asyncio.run(agent.run(task="1 + 2"))
for span in exporter.get_finished_spans():
    print(span.name, sorted(span.attributes))
"""


@pytest.mark.parametrize("content", ["", "true"])
def test_it_works_without_an_adapter(content: str) -> None:
    environment = {**os.environ, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": content}
    call = ScriptedToolCall(name="add", arguments={"a": 1, "b": 2})
    with ScriptedLLM([ScriptedAnswer(tool_calls=(call,)), ScriptedAnswer(text="3")]) as llm:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, llm.base_url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    lines = {line.partition(" [")[0]: line for line in done.stdout.splitlines()}
    assert {"invoke_agent calculator", "execute_tool add"} <= lines.keys(), done.stderr
    assert ("gen_ai.tool.call.arguments" in lines["execute_tool add"]) == bool(content)
    assert ("gen_ai.tool.call.result" in lines["execute_tool add"]) == bool(content)


def test_its_entry_point_is_the_class() -> None:
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="agl_autogen")
    assert entry.load() is AutoGenInstrumentor
    assert AutoGenInstrumentor().instrumentation_dependencies() == ("autogen-agentchat >= 0.7.5, < 0.8",)


def test_an_instrumentation_of_the_users_own_outlives_the_adapter() -> None:
    provider = TracerProvider()
    AutoGenInstrumentor().instrument(tracer_provider=provider)
    adapter = AutoGenAdapter()
    adapter.instrument(provider)
    adapter.uninstrument()
    assert AutoGenInstrumentor().is_instrumented_by_opentelemetry
    AutoGenInstrumentor().uninstrument()
