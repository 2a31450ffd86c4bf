"""The Responses API, plain completions and embeddings: what they return stays, and each call is one span."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import SpanStatus

TOOLS = [
    {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": False}
]


class Number(BaseModel):
    value: int


@pytest.fixture
def client(stage: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="users-own-key", max_retries=0, http_client=openai.DefaultHttpxClient(verify=False)
    ) as client:
        yield client


@pytest.fixture
def rollout(stage: Any) -> Iterator[None]:
    with in_rollout(stage.rollout(model="gateways-model")):
        yield


def parts_of(span: Any) -> object:
    (message,) = span.attributes["gen_ai.output.messages"]
    return message["parts"]


@pytest.mark.usefixtures("rollout")
def test_a_response_is_a_chat_span_with_its_whole_conversation(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(
        text="let me see", reasoning="hm", tool_calls=(ScriptedToolCall(name="add", id="c1"),)
    )
    first = client.responses.create(model="m", instructions="Be kind.", input="hi", tools=TOOLS)
    stage.reply = ScriptedAnswer(text="2")
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        *first.output,
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
    ]
    second = client.responses.create(model="m", input=given, max_output_tokens=9, temperature=0.5)
    assert second.output_text == "2"
    asked, answered = (span.attributes for span in stage.spans)
    call = {"type": "tool_call", "id": "c1", "name": "add", "arguments": "{}"}
    assert asked["gen_ai.system_instructions"] == [{"type": "text", "content": "Be kind."}]
    assert asked["gen_ai.request.model"] == "gateways-model"
    assert asked["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert asked["gen_ai.tool.definitions"] == TOOLS
    assert parts_of(stage.spans[0]) == [
        {"type": "reasoning", "content": "hm"},
        {"type": "text", "content": "let me see"},
        call,
    ]
    assert [message["role"] for message in answered["gen_ai.input.messages"]] == [
        "user",
        "assistant",
        "assistant",
        "assistant",
        "tool",
    ]
    assert answered["gen_ai.input.messages"][-1]["parts"] == [
        {"type": "tool_call_response", "id": "c1", "response": "2"}
    ]
    assert (answered["gen_ai.request.max_tokens"], answered["gen_ai.request.temperature"]) == (9, 0.5)
    assert answered["gen_ai.usage.output_tokens"] == 2
    assert answered["gen_ai.response.id"] == second.id


@pytest.mark.usefixtures("rollout")
def test_a_response_goes_to_the_endpoint_with_its_key(stage: Any, client: openai.OpenAI) -> None:
    client.responses.create(model="m", input="hi")
    (request,) = stage.llm.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/responses", "Bearer key-a")
    assert request.json["model"] == "gateways-model"
    assert request.headers["traceparent"].split("-")[2] == stage.span.span_id
    assert "users-own-key" not in repr(request)


@pytest.mark.usefixtures("rollout")
def test_a_streamed_response_is_put_together(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(
        text="ü und ö", chunk_chars=2, tool_calls=(ScriptedToolCall(name="add", arguments={"a": 1}),)
    )
    events = []
    for event in client.responses.create(model="m", input="hi", stream=True):
        assert stage.spans == []
        events.append(event.type)
    assert events[-1] == "response.completed"
    assert [part.get("content", part.get("name")) for part in parts_of(stage.span)] == ["ü und ö", "add"]
    assert "agl.cancelled" not in stage.span.attributes


@pytest.mark.usefixtures("rollout")
def test_the_streaming_manager_and_parsing_work_as_before(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text='{"value": 3}')
    with client.responses.stream(model="m", input="hi", text_format=Number) as stream:
        assert stream.get_final_response().output_parsed == Number(value=3)
    parsed = client.responses.parse(model="m", input="hi", text_format=Number)
    assert parsed.output_parsed == Number(value=3)
    assert len(stage.spans) == 2


@pytest.mark.usefixtures("rollout")
def test_a_stream_that_was_left_is_cancelled_with_what_had_come(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="one two three", chunk_chars=4)
    with client.responses.create(model="m", input="hi", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    assert stage.span.attributes["agl.cancelled"] is True
    ((part,),) = [parts_of(stage.span)]
    assert part["content"].startswith("one")


@pytest.mark.usefixtures("rollout")
def test_a_stream_that_tells_of_an_error_is_a_failed_span(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="one", error_event="out of memory")
    *_, last = client.responses.create(model="m", input="hi", stream=True)
    assert last.type == "error"
    assert stage.span.status is SpanStatus.ERROR
    assert "out of memory" in (stage.span.error or "")


@pytest.mark.usefixtures("rollout")
def test_an_answer_that_was_cut_short_says_so(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="one", finish_reason="length")
    assert client.responses.create(model="m", input="hi").status == "incomplete"
    assert stage.span.attributes["gen_ai.response.finish_reasons"] == ["length"]


@pytest.mark.usefixtures("rollout")
def test_a_failed_response_raises_what_the_sdk_raises(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedFault(status=400, message="no such thing")
    with pytest.raises(openai.BadRequestError, match="no such thing"):
        client.responses.create(model="m", input="hi")
    assert stage.span.status is SpanStatus.ERROR


async def test_async_responses_are_the_same(stage: Any) -> None:
    transport = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(max_retries=0, http_client=transport) as client:
        with in_rollout(stage.rollout()):
            whole = await client.responses.create(model="m", input="hi")
            async with client.responses.stream(model="m", input="hi") as stream:
                streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == "ok"
    assert [part["content"] for span in stage.spans for part in parts_of(span)] == ["ok", "ok"]


@pytest.mark.parametrize("shape", ["raw", "streaming"])
@pytest.mark.usefixtures("rollout")
def test_raw_responses_are_recorded_too(stage: Any, client: openai.OpenAI, shape: str) -> None:
    if shape == "raw":
        assert client.responses.with_raw_response.create(model="m", input="hi").parse().output_text == "ok"
    else:
        with client.responses.with_streaming_response.create(model="m", input="hi") as found:
            assert found.parse().output_text == "ok"
    assert parts_of(stage.span) == [{"type": "text", "content": "ok"}]


def test_embeddings_stay_with_the_users_server_and_are_recorded(stage: Any, client: openai.OpenAI) -> None:
    own = client.with_options(base_url=stage.llm.base_url)
    context = stage.rollout(model="gateways-model")
    with in_rollout(context):
        found = own.embeddings.create(model="embedder", input=["ab", "c"])
    assert [each.embedding for each in found.data] == [[2.0, 1.0], [1.0, 1.0]]
    assert stage.span.operation == "embeddings"
    assert stage.span.attributes["gen_ai.request.model"] == "embedder"
    assert stage.span.attributes["gen_ai.usage.input_tokens"] == 2
