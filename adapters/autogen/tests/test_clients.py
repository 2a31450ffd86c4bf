"""Model clients that no SDK's adapter knows: a span for each call, and their calls go to the rollout's endpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelInfo,
    RequestUsage,
    SystemMessage,
    UserMessage,
)
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.types import SpanStatus

if TYPE_CHECKING:
    from autogen_core.tools import Tool, ToolSchema

INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True
)


class Echo(ChatCompletionClient):
    """A client of a library that nobody instruments."""

    component_type = "model"
    model = "echo-1"

    async def create(self, messages: Sequence[LLMMessage], **_: Any) -> CreateResult:
        if messages[-1].content == "break":
            raise RuntimeError("out of order")
        usage = RequestUsage(prompt_tokens=3, completion_tokens=2)
        content = f"echo: {messages[-1].content}"
        return CreateResult(finish_reason="stop", content=content, usage=usage, cached=False)

    async def create_stream(
        self, messages: Sequence[LLMMessage], **_: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        whole = await Echo.create(self, messages)
        for part in str(whole.content).split(" "):
            yield part
        yield whole

    async def close(self) -> None:
        pass

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(prompt_tokens=0, completion_tokens=0)

    total_usage = actual_usage

    def count_tokens(self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = []) -> int:
        return 0

    remaining_tokens = count_tokens

    @property
    def capabilities(self) -> Any:
        return INFO

    @property
    def model_info(self) -> ModelInfo:
        return INFO


def unbound(stage: Any) -> Any:
    return replace(stage.rollout(), endpoint=None)


async def test_a_call_has_a_span_with_what_was_said(stage: Any) -> None:
    agent = AssistantAgent("echo", model_client=Echo(), system_message="You echo.")
    assert await stage.play(agent, unbound(stage)) == "echo: hi"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.above(chat).agent == "echo"
    found = chat.attributes
    assert (found[semconv.REQUEST_MODEL], found[semconv.FINISH_REASONS]) == ("echo-1", ["stop"])
    assert (found[semconv.INPUT_TOKENS], found[semconv.OUTPUT_TOKENS]) == (3, 2)
    assert [message["role"] for message in found[semconv.INPUT_MESSAGES]] == ["system", "user"]
    assert found[semconv.OUTPUT_MESSAGES][0]["parts"] == [{"type": "text", "content": "echo: hi"}]


async def test_a_failed_call_says_why(stage: Any) -> None:
    agent = AssistantAgent("echo", model_client=Echo())
    with pytest.raises(RuntimeError, match="out of order"):
        await stage.play(agent, unbound(stage), "break")
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert (chat.status, chat.error) == (SpanStatus.ERROR, "RuntimeError: out of order")


async def test_a_stream_has_one_span(stage: Any) -> None:
    agent = AssistantAgent("echo", model_client=Echo(), model_client_stream=True)
    with in_rollout(unbound(stage)):
        events = [event async for event in agent.run_stream(task="hi")]
    assert isinstance(events[-1], TaskResult)
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert chat.attributes[semconv.REQUEST_STREAM] is True
    assert chat.attributes[semconv.OUTPUT_MESSAGES][0]["parts"][0]["content"] == "echo: hi"


async def test_a_stream_that_is_left_has_what_came_until_then(stage: Any) -> None:
    with in_rollout(unbound(stage)):
        stream = Echo().create_stream([UserMessage(content="hi", source="user")])
        assert await anext(stream) == "echo:"
        await stream.aclose()
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert chat.attributes[semconv.CANCELLED] is True
    assert chat.attributes[semconv.OUTPUT_MESSAGES][0]["parts"][0]["content"] == "echo:"


@pytest.mark.parametrize("stream", [False, True])
async def test_its_calls_go_to_the_rollouts_endpoint(stage: Any, stream: bool) -> None:
    agent = AssistantAgent("echo", model_client=Echo(), model_client_stream=stream)
    assert await stage.play(agent, stage.rollout()) == "ok"
    (request,) = stage.llm.requests
    assert request.headers["authorization"] == "Bearer key-a"
    assert request.json["model"] == "trained"
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.above(chat).agent == "echo"
    assert request.headers["traceparent"].split("-")[2] == chat.span_id


async def test_settings_of_another_api_stay_behind(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        await Echo().create(
            [SystemMessage(content="s")], extra_create_args={"temperature": 0.5, "mirostat": 2}
        )
    (request,) = stage.llm.requests
    assert request.json["temperature"] == 0.5
    assert "mirostat" not in request.json


async def test_a_replayed_conversation_starts_afresh_in_every_rollout(stage: Any) -> None:
    client = ReplayChatCompletionClient(["one", "two"], model_info=INFO)
    agent = AssistantAgent("actor", model_client=client)
    for _ in range(2):
        assert await stage.play(agent, stage.rollout()) == "one"
    assert stage.llm.requests == []
    assert len(stage.of(semconv.OPERATION_CHAT)) == 2


async def test_a_cache_adds_no_span(stage: Any, model_client: OpenAIChatCompletionClient) -> None:
    agent = AssistantAgent("assistant", model_client=ChatCompletionCache(model_client))
    assert await stage.play(agent, stage.rollout()) == "ok"
    assert len(stage.of(semconv.OPERATION_CHAT)) == 1


async def test_a_class_that_comes_later_is_known_too(stage: Any) -> None:
    class Louder(Echo):
        async def create(self, messages: Sequence[LLMMessage], **kwargs: Any) -> CreateResult:
            quiet = await super().create(messages, **kwargs)
            return quiet.model_copy(update={"content": f"{quiet.content}!"})

    agent = AssistantAgent("echo", model_client=Louder())
    assert await stage.play(agent, unbound(stage)) == "echo: hi!"
    assert len(stage.of(semconv.OPERATION_CHAT)) == 1


async def test_outside_of_rollouts_nothing_changes(stage: Any) -> None:
    result = await Echo().create([UserMessage(content="hi", source="user")])
    assert result.content == "echo: hi"
    assert stage.spans == []
    assert stage.llm.requests == []
