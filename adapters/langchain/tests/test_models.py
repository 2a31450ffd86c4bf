"""Spans of chat models that ride on no SDK, from LangChain's callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from opentelemetry import trace

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.types import SpanStatus


class Wrapping(BaseChatModel):
    """A chat model of the agent's own, on top of another."""

    inner: Any

    @property
    def _llm_type(self) -> str:
        return "wrapping"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.inner.invoke(messages))])

    def _stream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.inner.stream(messages):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self.inner.astream(messages):
            yield ChatGenerationChunk(message=chunk)


class Slow(BaseChatModel):
    """A chat model that never answers."""

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise RuntimeError("too slow")

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        await asyncio.Event().wait()
        raise AssertionError

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content="first"))
        await asyncio.Event().wait()


def said(messages: Any) -> str:
    return "".join(part["content"] for message in messages for part in message["parts"])


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream", "batch"])
async def test_a_chat_model_without_an_sdk(stage: Any, how: str) -> None:
    model = FakeListChatModel(responses=["hello"])
    with in_rollout(stage.rollout()):
        if how == "invoke":
            model.invoke("hi")
        elif how == "ainvoke":
            await model.ainvoke("hi")
        elif how == "stream":
            for _ in model.stream("hi"):
                assert trace.get_current_span() is trace.INVALID_SPAN
        elif how == "astream":
            async for _ in model.astream("hi"):
                assert trace.get_current_span() is trace.INVALID_SPAN
        else:
            model.batch(["hi"])
        assert trace.get_current_span() is trace.INVALID_SPAN
    span = stage.one(semconv.OPERATION_CHAT)
    assert said(span.attributes[semconv.INPUT_MESSAGES]) == "hi"
    assert said(span.attributes[semconv.OUTPUT_MESSAGES]) == "hello"
    assert span.attributes[semconv.FINISH_REASONS] == ["stop"]
    assert span.status is SpanStatus.UNSET


def test_what_a_chat_model_tells_is_recorded(stage: Any) -> None:
    answer = AIMessage(
        content=[{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}],
        tool_calls=[{"name": "look", "args": {"at": 1}, "id": "c1"}],
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        response_metadata={"model_name": "big", "finish_reason": "tool_calls", "id": "x-1"},
    )

    class Telling(FakeListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=answer)])

    definition = {"type": "function", "function": {"name": "look", "description": "Look."}}
    with in_rollout(stage.rollout()):
        Telling(responses=[""]).invoke(
            [HumanMessage([{"type": "text", "text": "hi"}])], tools=[definition], temperature=0.5
        )
    found = stage.one(semconv.OPERATION_CHAT).attributes
    assert found[semconv.RESPONSE_ID] == "x-1"
    assert found[semconv.RESPONSE_MODEL] == "big"
    assert (found[semconv.INPUT_TOKENS], found[semconv.OUTPUT_TOKENS]) == (3, 2)
    assert found[semconv.REQUEST_TEMPERATURE] == 0.5
    assert found[semconv.TOOL_DEFINITIONS] == [definition]
    (message,) = found[semconv.OUTPUT_MESSAGES]
    assert message["parts"] == [
        {"type": "reasoning", "content": "hm"},
        {"type": "text", "content": "yes"},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": '{"at":1}'},
    ]


@pytest.mark.parametrize("how", ["invoke", "stream", "astream"])
async def test_an_sdks_call_below_a_model_of_the_agents_own_is_joined_to_it(stage: Any, how: str) -> None:
    model = Wrapping(inner=stage.model())
    with in_rollout(stage.rollout()):
        if how == "invoke":
            model.invoke("hi")
        elif how == "stream":
            assert "".join(chunk.text for chunk in model.stream("hi")) == "ok"
        else:
            assert "".join([chunk.text async for chunk in model.astream("hi")]) == "ok"
    assert [name.split(" ")[0] for name in map(str.strip, stage.tree())] == ["chat", "chat"]
    inner, outer = stage.spans
    assert inner.parent_id == outer.span_id


def test_several_questions_at_once_are_side_by_side(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        FakeListChatModel(responses=["a", "b"]).generate([[HumanMessage("1")], [HumanMessage("2")]])
    assert {span.parent_id for span in stage.spans} == {None}
    assert len(stage.spans) == 2


def test_a_chat_model_that_fails(stage: Any) -> None:
    with in_rollout(stage.rollout()), pytest.raises(RuntimeError):
        Slow().invoke("hi")
    assert stage.one(semconv.OPERATION_CHAT).error == "RuntimeError: too slow"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_chat_model_that_is_cancelled(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.create_task(Slow().ainvoke("hi")), 0.05)
        await asyncio.sleep(0)
    assert stage.one(semconv.OPERATION_CHAT).attributes[semconv.CANCELLED] is True
    assert not stage.adapter._instrumentor._handler.runs._open


async def test_a_chat_model_in_a_chain_that_is_cancelled(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for((RunnableLambda(str) | Slow()).ainvoke("hi"), 0.05)
        await asyncio.sleep(0)
    assert [span.attributes.get(semconv.CANCELLED) for span in stage.spans] == [None, True, True]


async def test_streams_that_are_left(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        with closing(FakeListChatModel(responses=["hello"]).stream("hi")) as parts:
            next(parts)
        async with aclosing(Slow().astream("hi")) as slow:
            await anext(slow)
    left, slow_left = stage.spans
    assert said(left.attributes[semconv.OUTPUT_MESSAGES]) == "h"
    assert said(slow_left.attributes[semconv.OUTPUT_MESSAGES]) == "first"
    assert [span.attributes[semconv.CANCELLED] for span in stage.spans] == [True, True]


def test_a_model_of_plain_text(stage: Any) -> None:
    with in_rollout(stage.rollout()):
        FakeListLLM(responses=["hello"]).invoke("hi")
    span = stage.one(semconv.OPERATION_COMPLETION)
    assert said(span.attributes[semconv.INPUT_MESSAGES]) == "hi"
    assert said(span.attributes[semconv.OUTPUT_MESSAGES]) == "hello"


def test_without_the_sdks_adapter_its_calls_are_recorded_here(stage: Any) -> None:
    for sdk in stage.adapter._below:
        sdk.uninstrument()
    model = stage.model().model_copy()
    with in_rollout(stage.rollout()), pytest.raises(Exception, match="Connection error"):
        model.invoke("hi")
    assert stage.one(semconv.OPERATION_CHAT).status is SpanStatus.ERROR
