"""Models that do not ride on the OpenAI SDK: a span for each call, and their calls go to the rollout's endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from agents import Agent, Model, ModelResponse, Runner, Usage
from agents.testing import ModelStep, ScriptedModel, assistant_message
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseUsage,
)

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.types import SpanStatus


def message(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(type="output_text", text=text, annotations=[])
    return ResponseOutputMessage(
        id="m1", type="message", role="assistant", status="completed", content=[part]
    )


class Echo(Model):
    """A model of a library that nobody instruments."""

    model = "echo-1"

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002
        text = input if isinstance(input, str) else str(input[-1]["content"])
        if text == "break":
            raise RuntimeError("out of order")
        usage = Usage(requests=1, input_tokens=3, output_tokens=2, total_tokens=5)
        return ModelResponse(output=[message(f"echo: {text}")], usage=usage, response_id="echo_1")

    async def stream_response(self, instructions: Any, given: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        answer = await Echo.get_response(self, instructions, given)
        response = Response.model_construct(
            id="echo_1",
            created_at=0,
            model="echo-1",
            object="response",
            output=answer.output,
            status="completed",
            usage=ResponseUsage.model_construct(
                input_tokens=3,
                output_tokens=2,
                total_tokens=5,
                input_tokens_details=None,
                output_tokens_details=None,
            ),
        )
        yield ResponseCompletedEvent.model_construct(
            type="response.completed", response=response, sequence_number=0
        )


def unbound(stage: Any) -> Any:
    return replace(stage.rollout(), endpoint=None)


async def test_a_call_has_a_span_with_what_was_said(stage: Any) -> None:
    agent = Agent(name="echo", instructions="You echo.", model=Echo())
    assert await stage.play(agent, unbound(stage)) == "echo: hi"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.above(chat).agent == "echo"
    found = chat.attributes
    assert (found[semconv.REQUEST_MODEL], found[semconv.FINISH_REASONS]) == ("echo-1", ["stop"])
    assert (found[semconv.INPUT_TOKENS], found[semconv.OUTPUT_TOKENS]) == (3, 2)
    assert found[semconv.SYSTEM_INSTRUCTIONS] == [{"type": "text", "content": "You echo."}]
    assert found[semconv.OUTPUT_MESSAGES][0]["parts"] == [{"type": "text", "content": "echo: hi"}]


async def test_a_failed_call_says_why(stage: Any) -> None:
    with pytest.raises(RuntimeError, match="out of order"):
        await stage.play(Agent(name="echo", model=Echo()), unbound(stage), "break")
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert (chat.status, chat.error) == (SpanStatus.ERROR, "RuntimeError: out of order")


async def test_a_stream_has_one_span(stage: Any) -> None:
    with in_rollout(unbound(stage)):
        result = Runner.run_streamed(Agent(name="echo", model=Echo()), "hi")
        async for _ in result.stream_events():
            pass
    assert result.final_output == "echo: hi"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert chat.attributes[semconv.REQUEST_STREAM] is True
    assert chat.attributes[semconv.OUTPUT_MESSAGES][0]["parts"][0]["content"] == "echo: hi"


@pytest.mark.parametrize("stream", [False, True])
async def test_its_calls_go_to_the_rollouts_endpoint(stage: Any, stream: bool) -> None:
    agent = Agent(name="echo", model=Echo())
    with in_rollout(stage.rollout()):
        if stream:
            streamed = Runner.run_streamed(agent, "hi")
            async for _ in streamed.stream_events():
                pass
            assert streamed.final_output == "ok"
        else:
            assert (await Runner.run(agent, "hi")).final_output == "ok"
    (request,) = stage.llm.requests
    assert request.headers["authorization"] == "Bearer key-a"
    assert request.json["model"] == "trained"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.above(chat).agent == "echo"
    assert request.headers["traceparent"].split("-")[2] == chat.span_id


async def test_a_script_is_no_model(stage: Any) -> None:
    agent = Agent(name="actor", model=ScriptedModel([ModelStep(output=[assistant_message("as written")])]))
    assert await stage.play(agent, stage.rollout()) == "as written"
    assert stage.llm.requests == []
    assert len(stage.of(semconv.OPERATION_CHAT)) == 1


async def test_a_class_that_comes_later_is_known_too(stage: Any) -> None:
    class Louder(Echo):
        async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
            await super().get_response(*args, **kwargs)
            return ModelResponse(output=[message("LOUD")], usage=Usage(), response_id=None)

    assert await stage.play(Agent(name="echo", model=Louder()), unbound(stage)) == "LOUD"
    assert len(stage.of(semconv.OPERATION_CHAT)) == 1
