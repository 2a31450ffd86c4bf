"""The instrumentor by itself, in a program that knows nothing of us."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedToolCall
from lightning_adapter_openai_agents import OpenAIAgentsAdapter, OpenAIAgentsInstrumentor

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

from lightning_adapter_openai_agents import OpenAIAgentsInstrumentor
OpenAIAgentsInstrumentor().instrument()

import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool

@function_tool
def add(a: int, b: int) -> int:
    'Adds.'
    return a + b

client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="k")
model = OpenAIChatCompletionsModel(model="m", openai_client=client)
agent = Agent(name="calculator", tools=[add], model=model)
Runner.run_sync(agent, "1 + 2")
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
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="agl_openai_agents")
    assert entry.load() is OpenAIAgentsInstrumentor
    assert OpenAIAgentsInstrumentor().instrumentation_dependencies() == ("openai-agents >= 0.24, < 0.25",)


def test_an_instrumentation_of_the_users_own_outlives_the_adapter() -> None:
    provider = TracerProvider()
    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)
    adapter = OpenAIAgentsAdapter()
    adapter.instrument(provider)
    adapter.uninstrument()
    assert OpenAIAgentsInstrumentor().is_instrumented_by_opentelemetry
    OpenAIAgentsInstrumentor().uninstrument()
