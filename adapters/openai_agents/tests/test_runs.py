"""Runs: handoffs, guardrails, tools, agents as tools and streams, each call below the agent that made it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    Model,
    RunContextWrapper,
    Runner,
    TResponseInputItem,
    function_tool,
    input_guardrail,
    trace,
)
from agents.mcp import MCPServerStdio
from pydantic import BaseModel

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.errors import TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import PromptTemplate, Span, SpanStatus


def calling(name: str, **arguments: Any) -> ScriptedAnswer:
    return ScriptedAnswer(tool_calls=(ScriptedToolCall(name=name, arguments=arguments),))


def agents_of(stage: Any) -> list[str | None]:
    """Which agent made each model call, in order."""
    spans = {span.span_id: span for span in stage.spans}

    def agent(span: Span) -> str | None:
        while span.agent is None and span.parent_id in spans:
            span = spans[span.parent_id]
        return span.agent

    return [agent(span) for span in stage.of(semconv.OPERATION_CHAT)]


@function_tool
def get_weather(city: str) -> str:
    """Gets the current weather of a city."""
    return f"sunny in {city}"


async def test_each_agent_of_a_handoff_has_its_own_span(stage: Any, model: Model) -> None:
    spanish = Agent(name="Spanish agent", instructions="You only speak Spanish.", model=model)
    english = Agent(name="English agent", instructions="You only speak English.", model=model)
    triage = Agent(
        name="Triage agent",
        instructions="Handoff to the appropriate agent.",
        handoffs=[spanish, english],
        model=model,
    )
    stage.replies = [calling("transfer_to_spanish_agent"), ScriptedAnswer(text="Hola")]
    assert await stage.play(triage, stage.rollout(), "Hola, ¿cómo estás?") == "Hola"
    assert agents_of(stage) == ["Triage agent", "Spanish agent"]
    handoff = stage.named("handoff from Triage agent to Spanish agent")
    assert stage.above(handoff).agent == "Triage agent"


async def test_parallel_tools_have_their_calls(stage: Any, model: Model) -> None:
    agent = Agent(name="weather", tools=[get_weather], model=model)
    calls = tuple(
        ScriptedToolCall(name="get_weather", arguments={"city": city}) for city in ("Tokyo", "Oslo")
    )
    stage.replies = [ScriptedAnswer(tool_calls=calls)]
    assert await stage.play(agent, stage.rollout()) == "ok"
    tools = stage.of(semconv.OPERATION_TOOL)
    assert {stage.above(tool).agent for tool in tools} == {"weather"}
    found = {tool.attributes[semconv.TOOL_CALL_ID]: tool.attributes for tool in tools}
    assert found["call_0"][semconv.TOOL_CALL_ARGUMENTS] == '{"city":"Tokyo"}'
    assert found["call_1"][semconv.TOOL_CALL_RESULT] == "sunny in Oslo"


async def test_an_agent_as_a_tool_is_below_the_tool(stage: Any, model: Model) -> None:
    translator = Agent(name="translator", instructions="You translate.", model=model)
    boss = Agent(
        name="boss",
        model=model,
        tools=[translator.as_tool(tool_name="translate", tool_description="Translates a text")],
    )
    stage.replies = [
        calling("translate", input="hi"),
        ScriptedAnswer(text="hola"),
        ScriptedAnswer(text="¡hola!"),
    ]
    assert await stage.play(boss, stage.rollout()) == "¡hola!"
    assert agents_of(stage) == ["boss", "translator", "boss"]
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    (inner,) = [span for span in stage.of(semconv.OPERATION_AGENT) if span.agent == "translator"]
    assert stage.above(inner).span_id == tool.span_id


class MathHomework(BaseModel):
    reasoning: str
    is_math_homework: bool


async def test_a_guardrails_agent_has_calls_of_its_own(stage: Any, model: Model) -> None:
    checker = Agent(
        name="Guardrail check", instructions="Is it homework?", output_type=MathHomework, model=model
    )

    @input_guardrail(run_in_parallel=False)
    async def math_guardrail(
        context: RunContextWrapper[None], agent: Agent[Any], given: str | list[TResponseInputItem]
    ) -> GuardrailFunctionOutput:
        found = (await Runner.run(checker, given)).final_output
        return GuardrailFunctionOutput(output_info=found, tripwire_triggered=found.is_math_homework)

    support = Agent(name="Support", input_guardrails=[math_guardrail], model=model)
    stage.replies = [ScriptedAnswer(text='{"reasoning": "x", "is_math_homework": true}')]
    with pytest.raises(InputGuardrailTripwireTriggered):
        await stage.play(support, stage.rollout(), "solve 2x + 3 = 11")
    assert agents_of(stage) == ["Guardrail check"]
    guardrail = stage.named("guardrail math_guardrail")
    assert guardrail.attributes["agl.guardrail.triggered"] is True
    (agent,) = [span for span in stage.of(semconv.OPERATION_AGENT) if span.agent == "Support"]
    assert agent.status is SpanStatus.ERROR


async def test_a_stream_has_the_same_spans(stage: Any, model: Model) -> None:
    agent = Agent(name="weather", tools=[get_weather], model=model)
    stage.replies = [calling("get_weather", city="Tokyo")]
    with in_rollout(stage.rollout()), trace("workflow"):
        result = Runner.run_streamed(agent, "How is it?")
        events = [event async for event in result.stream_events()]
    assert events
    assert result.final_output == "ok"
    assert agents_of(stage) == ["weather"] * 2
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    assert stage.above(tool).agent == "weather"


def test_a_sync_run_is_captured(stage: Any) -> None:
    agent = Agent(name="writer", instructions="Write.", model="gpt-5")
    with in_rollout(stage.rollout()):
        assert Runner.run_sync(agent, "A haiku").final_output == "ok"
    assert agents_of(stage) == ["writer"]
    (request,) = stage.llm.requests
    assert request.headers["authorization"] == "Bearer key-a"


async def test_a_tool_server_is_one_of_its_agent(stage: Any, model: Model) -> None:
    server = Path(__file__).parent / "calculator_server.py"
    described = {"math.tools.multiply": PromptTemplate(template="Multiplies boldly.")}
    params = {"command": sys.executable, "args": [str(server)]}
    async with MCPServerStdio(params=params, client_session_timeout_seconds=60) as calculator:  # type: ignore[arg-type]
        agent = Agent(name="math", mcp_servers=[calculator], model=model)
        stage.replies = [calling("multiply", a=2, b=3), ScriptedAnswer(text="6")]
        assert await stage.play(agent, stage.rollout(resources=described)) == "6"
    (tool,) = stage.of(semconv.OPERATION_TOOL)
    assert (tool.attributes[semconv.TOOL_NAME], stage.above(tool).agent) == ("multiply", "math")
    assert "6" in str(tool.attributes[semconv.TOOL_CALL_RESULT])
    assert "Multiplies boldly." in stage.llm.requests[0].body.decode()


async def test_sixteen_handoffs_at_once_do_not_mix(stage: Any, model: Model) -> None:
    target = Agent(name="target", model=model)
    source = Agent(name="source", model=model, handoffs=[target])
    stage.script = lambda request: (
        ScriptedAnswer(text="done")
        if "function_call_output" in request.body.decode()
        else calling("transfer_to_target")
    )

    async def play(number: int) -> None:
        prompt = {"target.instructions": PromptTemplate(template=f"Number {number}.")}
        assert await stage.play(source, stage.rollout(str(number), resources=prompt), str(number)) == "done"

    await asyncio.gather(*map(play, range(16)))
    told = {
        request.headers["authorization"]: request.json["instructions"]
        for request in stage.llm.requests
        if request.json.get("instructions")
    }
    assert told == {f"Bearer key-{number}": f"Number {number}." for number in range(16)}
    assert agents_of(stage).count("target") == 16


@dataclass
class CalendarEvent:
    name: str
    participants: list[str]


async def test_the_result_is_data(stage: Any, model: Model) -> None:
    agent = Agent(name="calendar", output_type=CalendarEvent, model=model)
    stage.replies = [ScriptedAnswer(text='{"response": {"name": "fair", "participants": ["Ann"]}}')]
    task = {"messages": [{"role": "user", "content": "Ann goes to the fair"}]}
    assert await stage.play(agent, stage.rollout(), task) == {"name": "fair", "participants": ["Ann"]}


def test_something_else_is_refused_with_what_is_accepted(stage: Any) -> None:
    with pytest.raises(TargetError, match="no agent of the OpenAI Agents SDK"):
        stage.adapter.as_function(object())
