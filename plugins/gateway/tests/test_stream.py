from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import msgspec
import openai
import pytest

from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import SpanStatus
from lightning_plugin_gateway import HttpPolicy

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]
TEXT = "  def f():\n    return 1\n\n\té 𝄞 "
CALL = ScriptedToolCall(name="add", arguments='{"left":  17, "right": 4}', id="call_9")
FULL = ScriptedAnswer(text=TEXT, tool_calls=(CALL, CALL), reasoning="hm, é")


async def drain(sdk: openai.AsyncOpenAI) -> list[Any]:
    stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    return [chunk async for chunk in stream]


async def raw_stream(bench: Any, *, body: dict[str, object] | None = None) -> bytes:
    url = bench.gateway.base_url + "/v1/chat/completions"
    headers = {"Authorization": f"Bearer {bench.key()}"}
    request = {"model": "m", "messages": HELLO, "stream": True, **(body or {})}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=request, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        return await response.read()


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"write_size": 1},
        {"write_size": 7},
        {"newline": "\r\n", "write_size": 3},
        {"newline": "\r"},
        {"preamble": ": keep-alive\n\n: again\n"},
        {"done": False},
        {"usage": False},
        {"chunk_chars": 1000},
    ],
    ids=str,
)
async def test_whatever_the_stream_looks_like_it_arrives_whole_and_is_recorded_whole(
    serve: Serve, shape: dict[str, Any]
) -> None:
    answer = ScriptedAnswer(text=TEXT, tool_calls=(CALL, CALL), reasoning="hm, é", **shape)
    async with serve([answer]) as bench, bench.sdk() as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        (span,) = await bench.spans()
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    assert (
        "".join(call.function.arguments for delta in deltas for call in delta.tool_calls or [])
        == CALL.text * 2
    )
    (message,) = span.attributes["gen_ai.output.messages"]
    assert (message["content"], message["reasoning_content"]) == (TEXT, "hm, é")
    assert message["tool_calls"][1] == {
        "id": "call_9",
        "type": "function",
        "function": {"name": "add", "arguments": CALL.text},
    }
    (tokens,) = span.tokens
    assert (list(tokens.response_ids), tokens.incomplete, tokens.finish_reason) == (
        answer.ids,
        "",
        "tool_calls",
    )
    assert list(tokens.prompt_ids) == answer.prompt_ids(HELLO)
    assert list(tokens.response_logprobs) == answer.ids_logprobs
    assert ("gen_ai.usage.output_tokens" in span.attributes) == answer.usage


async def test_what_was_not_asked_for_is_not_streamed(serve: Serve) -> None:
    async with serve([FULL, FULL]) as bench:
        plain = await raw_stream(bench)
        asked = {"logprobs": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
        full = await raw_stream(bench, body=asked)
        assert (await bench.spans())[0].tokens == (await bench.spans())[1].tokens
    for name in (b"token_ids", b"usage", b'logprob"'):
        assert name not in plain
        assert name in full
    assert plain.endswith(b"data: [DONE]\n\n")


async def test_choices_of_one_stream_are_kept_apart(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text="abc", chunk_chars=1)]) as bench:
        await raw_stream(bench, body={"n": 2})
        first, second = (await bench.spans())[0].tokens
        assert list(first.response_ids) == list(second.response_ids) == [*b"abc", 256]


async def test_chunks_are_passed_on_while_the_answer_is_being_sampled(serve: Serve) -> None:
    async with (
        serve([ScriptedAnswer(text="early late", chunk_chars=5, hold_after=2)]) as bench,
        bench.sdk() as sdk,
    ):
        stream = aiter(await sdk.chat.completions.create(model="m", messages=HELLO, stream=True))
        assert (await anext(stream)).choices[0].delta.content == ""
        assert (await anext(stream)).choices[0].delta.content == "early"
        assert (await bench.spans()) == []
        bench.llm.let_go()
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == " late"
        assert len(await bench.spans()) == 1


async def test_a_client_that_leaves_ends_the_generation_and_leaves_a_record(serve: Serve) -> None:
    answer = ScriptedAnswer(text="abcdefgh", chunk_chars=2, hold_after=3)
    async with serve([answer, ScriptedAnswer(hold_after=0)]) as bench, bench.sdk() as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        chunks = aiter(stream)
        for _ in range(3):
            await anext(chunks)
        await stream.close()
        await asyncio.to_thread(bench.llm.wait_left)
        await bench.gateway.release(bench.attempt())
        (span,) = await bench.spans()
        assert span.attributes["agl.cancelled"] is True
        assert span.attributes["gen_ai.output.messages"][0]["content"] == "abcd"
        assert "left" in span.tokens[0].incomplete
        assert list(span.tokens[0].response_ids) == answer.ids[: len(span.tokens[0].response_ids)]

        async with bench.sdk(bench.key("r2")) as other:
            call = asyncio.create_task(other.chat.completions.create(model="m", messages=HELLO))
            await asyncio.to_thread(bench.llm.wait_held, 2)
            call.cancel()
            await asyncio.to_thread(bench.llm.wait_left, 2)
            await bench.gateway.release(bench.attempt("r2"))
        assert (await bench.spans())[1].attributes["agl.cancelled"] is True


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (ScriptedAnswer(text="abcdefgh", error_event="out of memory"), "upstream_error"),
        (ScriptedAnswer(text="abcdefgh", cut_at=1200), "upstream_closed"),
        (ScriptedAnswer(text="abcdefgh", cut_at=1200, cut="reset"), "upstream_closed"),
        (ScriptedAnswer(text="abcdefgh", cut_at=1200, cut="stall"), "timeout"),
        (ScriptedAnswer(text="abcdefgh", preamble="data: {nonsense\n\n", cut_at=1200), "invalid_answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.cut,
)
async def test_a_stream_that_breaks_is_told_as_an_error_and_recorded(
    serve: Serve, answer: ScriptedAnswer, fault: str
) -> None:
    async with serve([answer]) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.APIError):
            await drain(sdk)
        (span,) = await bench.spans()
    assert span.status is SpanStatus.ERROR
    assert span.attributes["error.type"] == fault
    assert all(tokens.incomplete for tokens in span.tokens)


@pytest.mark.parametrize("cut", ["end", "reset"])
async def test_a_stream_cut_at_any_byte_is_whole_or_an_error(serve: Serve, cut: str) -> None:
    whole = ScriptedAnswer(text="é", usage=False, tool_calls=(CALL,), chunk_chars=1000)
    points = range(0, 5000, 97)  # the stream itself has about 4000 bytes
    answers = [msgspec.structs.replace(whole, cut_at=at, cut=cut) for at in points]
    async with serve(answers, http=HttpPolicy(tries=1)) as bench, bench.sdk() as sdk:
        for _ in points:
            try:
                stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
                assert [chunk async for chunk in stream]
            except openai.APIError:
                pass
        spans = await bench.spans()
    assert len(spans) == len(points)
    complete = [span for span in spans if span.status is SpanStatus.OK]
    assert bool(complete) or cut == "reset"  # a reset can overtake what was sent before it
    assert len(complete) < len(points)
    for span in complete:
        assert list(span.tokens[0].response_ids) == whole.ids
        assert span.tokens[0].incomplete == ""
    assert all(tokens.incomplete for span in spans if span not in complete for tokens in span.tokens)


async def test_a_failure_before_the_first_chunk_has_its_status(serve: Serve) -> None:
    async with serve([ScriptedFault(status=400, message="too long a prompt")]) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.BadRequestError, match="too long a prompt"):
            await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert len(await bench.spans()) == 1
