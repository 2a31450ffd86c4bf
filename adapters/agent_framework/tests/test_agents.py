"""Agents with tools, agents as tools, and other chat clients: what is captured of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Awaitable, Mapping, Sequence
from typing import Annotated, Any

import openai
import pytest
from agent_framework import (
    Agent,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    Message,
    ResponseStream,
    observability,
    tool,
)
from agent_framework.observability import ChatTelemetryLayer
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
from pydantic import Field

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import Span, SpanStatus

NOWHERE = "http://127.0.0.1:9/v1"


def client(kind: Any = OpenAIChatCompletionClient, base_url: str = NOWHERE) -> Any:
    return kind(model="gpt-4o-mini", api_key="users-key", base_url=base_url)


@tool(approval_mode="never_require")
def get_weather(location: Annotated[str, Field(description="The location to get the weather for.")]) -> str:
    """Get the weather for a given location."""
    if location == "Atlantis":
        raise ValueError("no such place")
    return f"The weather in {location} is sunny."


def weather_agent(kind: Any = OpenAIChatCompletionClient, base_url: str = NOWHERE) -> Agent:
    return Agent(
        client=client(kind, base_url),
        name="WeatherAgent",
        instructions="You are a helpful weather agent.",
        tools=[get_weather],
    )


def weather_in(*locations: str) -> ScriptedAnswer:
    calls = tuple(
        ScriptedToolCall(name="get_weather", arguments={"location": location}, id=f"call_{place}")
        for place, location in enumerate(locations)
    )
    return ScriptedAnswer(text="", tool_calls=calls)


def parent_of(span: Span, spans: Sequence[Span]) -> Span:
    return next(one for one in spans if one.span_id == span.parent_id)


@pytest.mark.parametrize("kind", [OpenAIChatCompletionClient, OpenAIChatClient])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_with_tools_is_an_agent_its_calls_and_its_tools(
    stage: Any, kind: Any, streamed: bool
) -> None:
    stage.replies = [weather_in("Seattle", "Paris"), ScriptedAnswer(text="sunny")]
    agent = weather_agent(kind)
    with in_rollout(stage.rollout()):
        if streamed:
            stream = agent.run("How is it?", stream=True)
            async for _ in stream:
                pass
            text = (await stream.get_final_response()).text
        else:
            text = (await agent.run("How is it?")).text
    assert text == "sunny"
    (run,) = stage.of(semconv.OPERATION_AGENT)
    assert (run.name, run.agent) == ("invoke_agent WeatherAgent", "WeatherAgent")
    chats, tools = stage.of(semconv.OPERATION_CHAT), stage.of(semconv.OPERATION_TOOL)
    assert len(chats) == len(tools) == 2
    assert {span.parent_id for span in [*chats, *tools]} == {run.span_id}
    assert [found.attributes[semconv.TOOL_CALL_ID] for found in tools] == ["call_0", "call_1"]
    found = tools[0].attributes
    assert found[semconv.TOOL_NAME] == "get_weather"
    assert json.loads(found[semconv.TOOL_CALL_ARGUMENTS]) == {"location": "Seattle"}
    assert found[semconv.TOOL_CALL_RESULT] == "The weather in Seattle is sunny."
    assert "How is it?" in str(run.attributes[semconv.INPUT_MESSAGES])
    assert "sunny" in str(run.attributes[semconv.OUTPUT_MESSAGES])


async def test_a_tool_that_fails_is_an_error_of_its_span(stage: Any) -> None:
    stage.replies = [weather_in("Atlantis"), ScriptedAnswer(text="sorry")]
    with in_rollout(stage.rollout()):
        response = await weather_agent().run("How is it?")
    assert response.text == "sorry"
    (found,) = stage.of(semconv.OPERATION_TOOL)
    assert found.status is SpanStatus.ERROR
    assert "no such place" in str(found.error)


async def test_an_agent_as_a_tool_runs_below_the_tool(stage: Any) -> None:
    stage.replies = [
        ScriptedAnswer(
            text="", tool_calls=(ScriptedToolCall(name="WeatherAgent", arguments={"task": "Seattle?"}),)
        ),
        ScriptedAnswer(text="sunny"),
        ScriptedAnswer(text="It is sunny."),
    ]
    outer = Agent(client=client(), name="Concierge", tools=[weather_agent().as_tool()])
    with in_rollout(stage.rollout()):
        await outer.run("How is it?")
    (used,) = stage.of(semconv.OPERATION_TOOL)
    inner, above = stage.named("invoke_agent WeatherAgent"), stage.named("invoke_agent Concierge")
    assert (inner.parent_id, used.parent_id) == (used.span_id, above.span_id)
    assert [parent_of(chat, stage.spans).agent for chat in stage.of(semconv.OPERATION_CHAT)] == [
        "Concierge",
        "WeatherAgent",
        "Concierge",
    ]


async def test_a_tool_may_call_the_sdk_itself(stage: Any) -> None:
    @tool(approval_mode="never_require")
    async def summarise(text: str) -> str:
        """Summarise a text."""
        async with openai.AsyncOpenAI(base_url=NOWHERE, api_key="k") as sdk:
            answer = await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}]
            )
        return answer.choices[0].message.content or ""

    call = ScriptedToolCall(name="summarise", arguments={"text": "long"})
    stage.replies = [ScriptedAnswer(text="", tool_calls=(call,))]
    with in_rollout(stage.rollout()):
        await Agent(client=client(), name="Reader", tools=[summarise]).run("Read")
    (used,) = stage.of(semconv.OPERATION_TOOL)
    assert sum(chat.parent_id == used.span_id for chat in stage.of(semconv.OPERATION_CHAT)) == 1


async def test_a_try_that_the_sdk_repeats_is_one_call(stage: Any) -> None:
    stage.replies = [ScriptedFault(status=500, message="busy", retry_after="0.01")]
    with in_rollout(stage.rollout()):
        await weather_agent().run("hi")
    assert len(stage.llm.requests) == 2
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert chat.status is SpanStatus.UNSET


async def test_sixteen_agents_at_once_keep_their_spans_apart(stage: Any) -> None:
    class Sink:
        def __init__(self) -> None:
            self.spans: list[Span] = []

        def add(self, span: Span) -> None:
            self.spans.append(span)

    def reply(request: Any) -> ScriptedAnswer:
        return (
            ScriptedAnswer(text="done")
            if request.json["messages"][-1]["role"] == "tool"
            else weather_in("Oslo")
        )

    stage.script = reply
    agent, sinks = weather_agent(), [Sink() for _ in range(16)]

    async def run(number: int) -> None:
        with in_rollout(stage.rollout(str(number), sink=sinks[number])):
            await agent.run("How is it?")

    await asyncio.gather(*map(run, range(16)))
    for number, sink in enumerate(sinks):
        (above,) = [span for span in sink.spans if span.operation == semconv.OPERATION_AGENT]
        below = [span for span in sink.spans if span is not above]
        assert sorted(span.operation for span in below) == ["chat", "chat", "execute_tool"]
        assert {span.parent_id for span in below} == {above.span_id}
        assert {span.attempt_id for span in sink.spans} == {str(number)}


class EchoingChatClient(ChatTelemetryLayer[Any], BaseChatClient[Any]):
    """A client of no SDK, as the framework's sample of a custom chat client."""

    OTEL_PROVIDER_NAME = "EchoingChatClient"

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool = False, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        text = f"Echo: {messages[-1].text}"

        async def respond() -> ChatResponse:
            return ChatResponse(
                messages=[Message("assistant", [text])], model="echo", response_id="e1", finish_reason="stop"
            )

        async def updates() -> AsyncIterable[ChatResponseUpdate]:
            for word in text.split():
                yield ChatResponseUpdate(contents=[Content.from_text(word)], role="assistant", model="echo")

        return ResponseStream(updates(), finalizer=ChatResponse.from_updates) if stream else respond()


async def test_a_client_of_no_sdk_is_recorded_by_the_frameworks_span(stage: Any) -> None:
    agent = Agent(client=EchoingChatClient(), name="Parrot")
    with in_rollout(stage.rollout()):
        response = await agent.run("hi")
    assert response.text == "Echo: hi"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert parent_of(chat, stage.spans).agent == "Parrot"
    assert "Echo: hi" in str(chat.attributes[semconv.OUTPUT_MESSAGES])
    assert chat.attributes[semconv.RESPONSE_ID] == "e1"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("content", [False, True])
async def test_outside_of_rollouts_the_frameworks_spans_are_as_its_user_wants_them(
    stage: Any, exported: Any, streamed: bool, content: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observability.OBSERVABILITY_SETTINGS, "_enable_sensitive_data", content)
    agent = weather_agent(base_url=stage.llm.base_url)
    async with agent.client.client:  # type: ignore[attr-defined]
        if streamed:
            async with agent.run("hi", stream=True) as updates:
                async for _ in updates:
                    pass
        else:
            await agent.run("hi")
    chat, run = exported.get_finished_spans()
    assert (chat.name, run.name) == ("chat gpt-4o-mini", "invoke_agent WeatherAgent")
    assert {span.instrumentation_scope.name for span in (chat, run)} == {"agent_framework"}
    assert (semconv.INPUT_MESSAGES in chat.attributes) is content
    assert stage.spans == []


async def test_instrumentation_that_was_switched_off_stays_off(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observability.OBSERVABILITY_SETTINGS, "_user_disabled", True)
    stage.replies = [weather_in("Oslo")]
    with in_rollout(stage.rollout()):
        await weather_agent().run("hi")
    assert [span.operation for span in stage.spans] == ["chat", "chat"]


async def test_content_of_a_rollout_is_no_log_record(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[object] = []
    monkeypatch.setattr(observability.otel_event_logger, "emit", lambda **record: emitted.append(record))
    agent = Agent(client=EchoingChatClient(), name="Parrot")
    with in_rollout(stage.rollout()):
        await agent.run("hi")
        assert emitted == []
        monkeypatch.setattr(observability.OBSERVABILITY_SETTINGS, "_enable_sensitive_data", True)
        await agent.run("hi")
    assert emitted
