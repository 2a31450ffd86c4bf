"""Ways to call the Messages API: each returns what it returned before, and is one span."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import SpanStatus

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}]


@pytest.fixture
def client(stage: Any) -> Iterator[anthropic.Anthropic]:
    transport = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(api_key="users-own-key", max_retries=0, http_client=transport) as client:
        yield client


@pytest.fixture
def rollout(stage: Any) -> Iterator[None]:
    with in_rollout(stage.rollout(model="gateways-model")):
        yield


def parts_of(span: Any) -> object:
    (message,) = span.attributes["gen_ai.output.messages"]
    return message["parts"]


@pytest.mark.usefixtures("rollout")
def test_the_whole_conversation_is_recorded(stage: Any, client: anthropic.Anthropic) -> None:
    call = ScriptedToolCall(name="add", arguments={"a": 1}, id="t1")
    stage.reply = ScriptedAnswer(text="let me see", reasoning="hm", tool_calls=(call,))
    first = client.messages.create(model="m", max_tokens=9, system="Be kind.", messages=HI, tools=TOOLS)
    stage.reply = ScriptedAnswer(text="2")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    client.messages.create(
        model="m",
        max_tokens=9,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "hi"}, image]},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"}]},
        ],
    )
    asked, answered = (span.attributes for span in stage.spans)
    told = [
        {"type": "reasoning", "content": "hm"},
        {"type": "text", "content": "let me see"},
        {"type": "tool_call", "id": "t1", "name": "add", "arguments": '{"a":1}'},
    ]
    assert parts_of(stage.spans[0]) == told
    assert asked["gen_ai.system_instructions"] == [{"type": "text", "content": "Be kind."}]
    assert asked["gen_ai.request.model"] == "gateways-model"
    assert asked["gen_ai.request.max_tokens"] == 9
    assert asked["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert asked["gen_ai.tool.definitions"] == TOOLS
    assert answered["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}, image]},
        {"role": "assistant", "parts": told},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "2"}]},
    ]


@pytest.mark.usefixtures("rollout")
def test_a_call_goes_to_the_endpoint_with_its_key(stage: Any, client: anthropic.Anthropic) -> None:
    client.messages.create(model="m", max_tokens=9, messages=HI, extra_headers={"x-secret-token": "s"})
    (request,) = stage.llm.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/messages", "Bearer key-a")
    assert request.json["model"] == "gateways-model"
    assert request.headers["traceparent"].split("-")[2] == stage.span.span_id
    assert "users-own-key" not in repr(request)
    assert "x-secret-token" not in request.headers


@pytest.mark.parametrize("way", ["create", "stream", "raw", "beta"])
@pytest.mark.usefixtures("rollout")
def test_a_streamed_answer_is_put_together(stage: Any, client: anthropic.Anthropic, way: str) -> None:
    stage.reply = ScriptedAnswer(
        text="ü und ö",
        reasoning="hm",
        chunk_chars=2,
        tool_calls=(ScriptedToolCall(name="add", arguments={"a": 1}),),
    )
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HI}
    if way == "create":
        for _ in client.messages.create(**asked, stream=True):
            assert stage.spans == []
    elif way == "stream":
        with client.messages.stream(**asked) as stream:
            assert stream.get_final_message().stop_reason == "tool_use"
    elif way == "raw":
        with client.messages.with_streaming_response.create(**asked, stream=True) as response:
            list(response.iter_lines())
    else:
        with client.beta.messages.stream(**asked) as stream:
            list(stream)
    assert [part.get("content", part.get("arguments")) for part in parts_of(stage.span)] == [
        "hm",
        "ü und ö",
        '{"a":1}',
    ]
    assert stage.span.attributes["gen_ai.usage.output_tokens"] > 1
    assert "agl.cancelled" not in stage.span.attributes


@pytest.mark.usefixtures("rollout")
def test_a_stream_that_was_left_is_cancelled_with_what_had_come(
    stage: Any, client: anthropic.Anthropic
) -> None:
    stage.reply = ScriptedAnswer(text="one two three", chunk_chars=4)
    with client.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
        next(iter(stream.text_stream))
    assert stage.span.attributes["agl.cancelled"] is True


@pytest.mark.usefixtures("rollout")
def test_an_error_event_ends_the_span_with_its_message(stage: Any, client: anthropic.Anthropic) -> None:
    stage.reply = ScriptedAnswer(text="one", error_event="overloaded")
    with pytest.raises(anthropic.APIError, match="overloaded"):
        list(client.messages.create(model="m", max_tokens=9, messages=HI, stream=True))
    assert stage.span.status is SpanStatus.ERROR
    assert "overloaded" in (stage.span.error or "")


@pytest.mark.usefixtures("rollout")
def test_a_refused_call_raises_what_the_sdk_raises(stage: Any, client: anthropic.Anthropic) -> None:
    stage.reply = ScriptedFault(status=400, message="no such thing")
    with pytest.raises(anthropic.BadRequestError, match="no such thing"):
        client.messages.create(model="m", max_tokens=9, messages=HI)
    assert stage.span.status is SpanStatus.ERROR


@pytest.mark.usefixtures("rollout")
def test_counting_tokens_goes_to_the_endpoint_and_is_no_span(stage: Any, client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="m", messages=HI).input_tokens > 2
    assert stage.spans == []


@pytest.mark.usefixtures("rollout")
def test_a_client_without_a_key_works_inside_of_a_rollout(stage: Any) -> None:
    transport = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(max_retries=0, http_client=transport) as client:
        assert client.messages.create(model="m", max_tokens=9, messages=HI).content[0].text == "ok"  # type: ignore[union-attr]
