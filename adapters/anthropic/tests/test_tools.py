"""Tools that the SDK runs: spans with arguments and results, whoever else makes spans of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool, beta_tool

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import SpanStatus

HI = [{"role": "user", "content": "hi"}]


@beta_tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    if city == "Atlantis":
        raise ValueError("no such place")
    return f"sunny in {city}"


@beta_async_tool
async def forecast(city: str) -> list[Any]:
    """Tells the weather of tomorrow."""
    return [{"type": "text", "text": f"rain in {city}"}]


def calling(name: str, *cities: str) -> ScriptedAnswer:
    calls = (ScriptedToolCall(name=name, arguments={"city": city}, id=f"t{city}") for city in cities)
    return ScriptedAnswer(tool_calls=tuple(calls))


@pytest.fixture
def client(stage: Any) -> Iterator[anthropic.Anthropic]:
    transport = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(api_key="users-own-key", max_retries=0, http_client=transport) as client:
        yield client


def tool_of(span: Any) -> tuple[object, object, object]:
    found = span.attributes
    arguments = json.loads(found[semconv.TOOL_CALL_ARGUMENTS])
    return found[semconv.TOOL_NAME], arguments, found.get(semconv.TOOL_CALL_RESULT)


def test_tools_of_the_runner_are_spans(stage: Any, client: anthropic.Anthropic) -> None:
    stage.replies = [calling("weather", "Oslo", "Rome"), ScriptedAnswer(text="sunny")]
    with in_rollout(stage.rollout()):
        runner = client.beta.messages.tool_runner(model="m", max_tokens=9, messages=HI, tools=[weather])
        assert runner.until_done().content[0].text == "sunny"
    assert [tool_of(span) for span in stage.of(semconv.OPERATION_TOOL)] == [
        ("weather", {"city": "Oslo"}, "sunny in Oslo"),
        ("weather", {"city": "Rome"}, "sunny in Rome"),
    ]
    assert len(stage.of(semconv.OPERATION_CHAT)) == 2


async def test_async_tools_are_spans(stage: Any) -> None:
    stage.replies = [calling("forecast", "Oslo"), ScriptedAnswer(text="rain")]
    transport = anthropic.DefaultAsyncHttpxClient(verify=False)
    async with anthropic.AsyncAnthropic(api_key="own", max_retries=0, http_client=transport) as client:
        with in_rollout(stage.rollout()):
            runner = client.beta.messages.tool_runner(model="m", max_tokens=9, messages=HI, tools=[forecast])
            await runner.until_done()
    *asked, result = tool_of(stage.one(semconv.OPERATION_TOOL))
    assert asked == ["forecast", {"city": "Oslo"}]
    assert json.loads(str(result)) == [{"type": "text", "content": "rain in Oslo"}]


def test_a_tool_that_fails_says_why(stage: Any, client: anthropic.Anthropic) -> None:
    stage.replies = [calling("weather", "Atlantis"), ScriptedAnswer(text="sorry")]
    with in_rollout(stage.rollout()):
        client.beta.messages.tool_runner(model="m", max_tokens=9, messages=HI, tools=[weather]).until_done()
    span = stage.one(semconv.OPERATION_TOOL)
    assert (span.status, span.error) == (SpanStatus.ERROR, "ValueError: no such place")
    assert "no such place" in str(stage.llm.requests[1].json["messages"][-1])


def test_a_call_by_hand_is_a_span_in_which_the_tool_works(stage: Any) -> None:
    @beta_tool
    def look(at: str) -> str:
        """Looks at something."""
        with stage.provider.get_tracer("own").start_as_current_span("looking"):
            return at

    with in_rollout(stage.rollout()):
        assert look.call({"at": "it"}) == "it"
    assert stage.path(stage.named("looking")) == ["execute_tool look"]


def test_the_sdks_own_span_of_a_tool_is_completed_and_not_doubled(
    stage: Any, client: anthropic.Anthropic
) -> None:
    if not hasattr(client, "open_telemetry"):
        pytest.skip("this release makes no spans of its own")
    traced = client.with_options(open_telemetry={"tracer_provider": stage.provider})
    stage.replies = [calling("weather", "Oslo"), ScriptedAnswer(text="sunny")]
    with in_rollout(stage.rollout()):
        traced.beta.messages.tool_runner(model="m", max_tokens=9, messages=HI, tools=[weather]).until_done()
    span = stage.one(semconv.OPERATION_TOOL)
    assert tool_of(span) == ("weather", {"city": "Oslo"}, "sunny in Oslo")
    assert stage.above(span).operation == semconv.OPERATION_AGENT
    assert len(stage.of(semconv.OPERATION_CHAT)) == 2
    assert span.attributes[semconv.TOOL_CALL_ID] == "tOslo"


def test_outside_of_rollouts_tools_do_what_they_did(stage: Any) -> None:
    assert weather.call({"city": "Oslo"}) == weather("Oslo") == "sunny in Oslo"
    assert stage.spans == []
