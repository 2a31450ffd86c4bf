"""Ways to call chat completions: each returns what it returned before, and is one span."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.resources.chat.completions import Completions
from openai.types.chat import ChatCompletion, ChatCompletionMessage, ParsedChatCompletion
from pydantic import BaseModel

from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import Span, SpanStatus

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.fixture
def client(stage: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(max_retries=0, http_client=openai.DefaultHttpxClient(verify=False)) as client:
        yield client


@pytest.fixture
def rollout(stage: Any) -> Iterator[None]:
    with in_rollout(stage.rollout()):
        yield


def answer_of(span: Span) -> object:
    (message,) = span.attributes["gen_ai.output.messages"]
    return message["parts"]


def text(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": content}]


@pytest.mark.usefixtures("rollout")
def test_the_whole_conversation_is_recorded(stage: Any, client: openai.OpenAI) -> None:
    call = ScriptedToolCall(name="add", arguments='{"a": 1}', id="c1")
    stage.reply = ScriptedAnswer(text="let me see", reasoning="hm", tool_calls=(call,))
    message = client.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS).choices[0].message
    stage.reply = ScriptedAnswer(text="ok")
    client.chat.completions.create(
        model="m",
        temperature=0.5,
        max_tokens=9,
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]},
            message,
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
    )
    first, second = (span.attributes for span in stage.spans)
    asked = {"type": "tool_call", "id": "c1", "name": "add", "arguments": '{"a": 1}'}
    assistant = [{"type": "reasoning", "content": "hm"}, *text("let me see"), asked]
    assert answer_of(stage.spans[0]) == assistant
    assert first["gen_ai.tool.definitions"] == TOOLS
    assert first["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert second["gen_ai.input.messages"] == [
        {"role": "system", "parts": text("Be kind.")},
        {"role": "user", "parts": [{"type": "uri", "modality": "image", "uri": "http://x/y.png"}]},
        {"role": "assistant", "parts": assistant},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "2"}]},
    ]
    assert (second["gen_ai.request.temperature"], second["gen_ai.request.max_tokens"]) == (0.5, 9)


@pytest.mark.usefixtures("rollout")
def test_a_stream_is_put_together(stage: Any, client: openai.OpenAI) -> None:
    calls = (ScriptedToolCall(name="add", arguments={"a": 1}), ScriptedToolCall(name="sub"))
    stage.reply = ScriptedAnswer(text="ü und ö", tool_calls=calls, chunk_chars=2)
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    assert type(stream) is openai.Stream
    assert stage.spans == []
    assert len(list(stream)) > 3
    attributes = stage.span.attributes
    assert [part.get("name", part.get("content")) for part in answer_of(stage.span)] == [
        "ü und ö",
        "add",
        "sub",
    ]
    assert attributes["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert "agl.cancelled" not in attributes


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.usefixtures("rollout")
def test_streams_come_in_many_forms(stage: Any, client: openai.OpenAI, newline: str, done: bool) -> None:
    stage.reply = ScriptedAnswer(text="ok", newline=newline, done=done, preamble=": hello" + newline * 2)
    for _ in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
        pass
    assert answer_of(stage.span) == text("ok")
    assert "agl.cancelled" not in stage.span.attributes


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    write_size=st.integers(1, 40),
    chunk_chars=st.integers(1, 5),
)
def test_a_stream_reads_the_same_however_it_is_cut(
    stage: Any, client: openai.OpenAI, content: str, write_size: int, chunk_chars: int
) -> None:
    stage.spans.clear()
    stage.reply = ScriptedAnswer(text=content, write_size=write_size, chunk_chars=chunk_chars)
    with in_rollout(stage.rollout()):
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        seen = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert seen == content
    assert answer_of(stage.span) == text(content)


@pytest.mark.usefixtures("rollout")
def test_a_closed_stream_is_cancelled_and_keeps_what_came(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="one two", chunk_chars=3, hold_after=3)
    with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
        seen = ""
        while not seen:
            seen += next(stream).choices[0].delta.content or ""
    stage.llm.let_go()
    assert stage.span.attributes["agl.cancelled"] is True
    assert answer_of(stage.span)[0]["content"].startswith("one")


@pytest.mark.usefixtures("rollout")
def test_a_forgotten_stream_is_cancelled(stage: Any, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    stream.response.close()
    assert stage.span.attributes["agl.cancelled"] is True
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    next(stream)
    del stream
    gc.collect()
    assert len(stage.spans) == 2


@pytest.mark.usefixtures("rollout")
def test_an_error_event_ends_the_span_with_its_message(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="ok", error_event="overloaded")
    with pytest.raises(openai.APIError, match="overloaded"):
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert stage.span.status is SpanStatus.ERROR
    assert "overloaded" in (stage.span.error or "")


@pytest.mark.usefixtures("rollout")
def test_a_connection_that_breaks_ends_the_span(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text="a long answer", cut_at=200, cut="reset")
    with pytest.raises(
        Exception, match=r"closed connection|Connection error"
    ):  # SDK 2 raises the transport's own
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert stage.span.status is SpanStatus.ERROR


@pytest.mark.usefixtures("rollout")
def test_raw_responses_stay_raw(stage: Any, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert type(raw).__name__ == "LegacyAPIResponse"
    assert isinstance(raw.parse(), ChatCompletion)
    assert answer_of(stage.span) == text("ok")


@pytest.mark.usefixtures("rollout")
def test_a_raw_stream_is_recorded_when_it_is_read(stage: Any, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
    assert stage.spans == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices) == "ok"
    assert answer_of(stage.span) == text("ok")


@pytest.mark.usefixtures("rollout")
def test_a_streaming_response_is_not_read_ahead(stage: Any, client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
        assert type(response).__name__ == "APIResponse"
        assert not response.is_closed
        assert stage.spans == []
        assert response.parse().choices[0].message.content == "ok"
    assert answer_of(stage.span) == text("ok")


@pytest.mark.usefixtures("rollout")
def test_the_stream_helper_works(stage: Any, client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "ok"
    assert answer_of(stage.span) == text("ok")


class Answer(BaseModel):
    number: int


@pytest.mark.usefixtures("rollout")
def test_parse_works(stage: Any, client: openai.OpenAI) -> None:
    stage.reply = ScriptedAnswer(text='{"number": 3}')
    parsed = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Answer)
    assert isinstance(parsed, ParsedChatCompletion)
    assert parsed.choices[0].message.parsed == Answer(number=3)
    assert answer_of(stage.span) == text('{"number": 3}')


async def test_async_calls_work_in_all_their_ways(stage: Any) -> None:
    async with openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(verify=False)) as client:
        completions = client.chat.completions
        with in_rollout(stage.rollout()):
            await completions.create(model="m", messages=MESSAGES)
            stream = await completions.create(model="m", messages=MESSAGES, stream=True)
            assert type(stream) is openai.AsyncStream
            assert len([chunk async for chunk in stream]) > 1
            async with completions.stream(model="m", messages=MESSAGES) as helper:
                await helper.until_done()
            raw = await completions.with_raw_response.create(model="m", messages=MESSAGES)
            assert isinstance(raw.parse(), ChatCompletion)
            async with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
                assert (await response.parse()).choices
            await completions.parse(model="m", messages=MESSAGES)
    assert [answer_of(span) for span in stage.spans] == [text("ok")] * 6
    assert not any("agl.cancelled" in span.attributes for span in stage.spans)


async def test_an_async_call_starts_when_it_is_awaited(stage: Any) -> None:
    async with openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(verify=False)) as client:
        with in_rollout(stage.rollout()):
            call = client.chat.completions.create(model="m", messages=MESSAGES)
            assert stage.llm.requests == []
            await call
    assert len(stage.spans) == 1


@pytest.mark.usefixtures("rollout")
def test_messages_may_come_from_a_generator(stage: Any, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="m", messages=(message for message in MESSAGES))
    assert stage.llm.requests[0].json["messages"] == MESSAGES
    assert stage.span.attributes["gen_ai.input.messages"] == [{"role": "user", "parts": text("hi")}]


@pytest.mark.usefixtures("rollout")
def test_retries_are_the_sdks_own_and_one_span(stage: Any) -> None:
    stage.replies = [ScriptedFault(status=503, retry_after="0")]
    client = openai.OpenAI(max_retries=1, http_client=openai.DefaultHttpxClient(verify=False))

    with client:
        assert client.chat.completions.create(model="m", messages=MESSAGES).choices
    assert [request.headers["x-stainless-retry-count"] for request in stage.llm.requests] == ["0", "1"]
    assert stage.span.status is SpanStatus.UNSET


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGE = st.fixed_dictionaries(
    {"role": ROLES, "content": st.text(max_size=5) | st.none()}, optional={"name": JSON}
)
MODEL_MESSAGE = st.builds(ChatCompletionMessage, role=st.just("assistant"), content=st.text(max_size=5))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(MESSAGE | MODEL_MESSAGE, min_size=1, max_size=3), tools=st.lists(st.just(TOOLS[0])))
def test_the_request_is_the_one_that_the_sdk_would_send(
    stage: Any, client: openai.OpenAI, messages: list[object], tools: list[object]
) -> None:
    stage.llm.requests.clear()
    asked = {
        "model": "m",
        "messages": messages,
        "tools": tools,
        "seed": 3,
        "extra_body": {"return_token_ids": True},
    }
    with openai.OpenAI(
        base_url=stage.llm.base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False)
    ) as plain:
        plain.chat.completions.create(**asked)
    with in_rollout(stage.rollout()):
        client.chat.completions.create(**asked)
    without, bound = (request.json for request in stage.llm.requests)
    assert bound == without


@pytest.mark.parametrize(
    "messages", [3, None, "text", [object()], [None], [{"role": "user", "content": {1}}]]
)
def test_nonsense_ends_as_it_did(stage: Any, client: openai.OpenAI, messages: object) -> None:
    def outcome(completions: object, create: Callable[..., object]) -> type:
        try:
            return type(create(completions, model="m", messages=messages))
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises
            return type(error)

    with openai.OpenAI(
        base_url=stage.llm.base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False)
    ) as plain:
        expected = outcome(plain.chat.completions, Completions.create.__wrapped__)
    with in_rollout(stage.rollout()):
        assert outcome(client.chat.completions, Completions.create) is expected


@pytest.mark.usefixtures("rollout")
def test_missing_arguments_are_named_as_ever(client: openai.OpenAI) -> None:
    with pytest.raises(TypeError, match="Missing required arguments"):
        client.chat.completions.create()  # type: ignore[call-overload]
