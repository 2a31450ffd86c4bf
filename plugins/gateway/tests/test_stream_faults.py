"""Streams as broken servers send them, byte for byte: each fault on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import openai
import pytest

from agentlightning.gateway import HttpUpstream
from agentlightning.testing import ScriptedAnswer
from agentlightning.types import Span, SpanStatus

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "hello"}]
TEXT = "é 𝄞\n"


def chunk(
    delta: dict[str, object], *, finish: str | None = None, ids: Sequence[int] = (), **more: object
) -> bytes:
    logprobs = {"content": [{"token": "t", "logprob": -0.5} for _ in ids]}
    choice = {
        "index": 0,
        "delta": delta,
        "finish_reason": finish,
        "token_ids": list(ids),
        "logprobs": logprobs,
    }
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return msgspec.json.encode({**frame, "choices": [choice], **more})


FIRST = chunk({"role": "assistant", "content": ""}, prompt_token_ids=[1, 2])
MIDDLE = chunk({"content": TEXT}, ids=[3])
LAST = chunk({}, finish="stop", ids=[4])
USAGE = msgspec.json.encode({"id": "chatcmpl-1", "model": "m", "choices": [], "usage": {"prompt_tokens": 2}})


def events(*parts: bytes, begin: bytes = b"data: ", end: bytes = b"\n\n") -> bytes:
    return b"".join(begin + part + end for part in parts)


WHOLE = events(FIRST, MIDDLE, LAST, b"[DONE]")


@asynccontextmanager
async def upstream(stream: Sequence[bytes], *, stall: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with these writes; its URL."""
    left = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for part in stream:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if stall:
            await reader.read()
            left.set()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        if stall:
            await left.wait()
    finally:
        server.close()


async def ask(serve: Serve, stream: Sequence[bytes]) -> tuple[str, Span]:
    """What a client reads of a stream, and the record."""
    async with (
        upstream(stream) as url,
        serve(upstreams={"m": HttpUpstream(base_url=url)}) as bench,
        bench.sdk() as sdk,
    ):
        text = ""
        try:
            async for part in await sdk.chat.completions.create(model="m", messages=HELLO, stream=True):
                text += part.choices[0].delta.content or ""
        except openai.APIError as error:
            text += f"<{error}>"
        (span,) = await bench.spans()
    return text, span


def is_whole(text: str, span: Span) -> bool:
    (tokens,) = span.tokens
    return (
        (text, span.status, tokens.incomplete) == (TEXT, SpanStatus.OK, "")
        and list(tokens.prompt_ids) == [1, 2]
        and list(tokens.response_ids) == [3, 4]
        and len(tokens.response_logprobs) == 2
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
async def test_an_event_split_over_writes_and_inside_a_character(serve: Serve, size: int) -> None:
    pieces = [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]
    assert is_whole(*await ask(serve, pieces))


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\r\r"])
async def test_other_line_ends(serve: Serve, end: bytes) -> None:
    assert is_whole(*await ask(serve, [events(FIRST, MIDDLE, LAST, b"[DONE]", end=end)]))


async def test_data_without_a_space(serve: Serve) -> None:
    assert is_whole(*await ask(serve, [events(FIRST, MIDDLE, LAST, b"[DONE]", begin=b"data:")]))


async def test_comments_keep_alives_and_other_fields(serve: Serve) -> None:
    noise = b": ping\n\n:\n\nid: 7\nretry: 100\n\nevent: message\n"
    assert is_whole(*await ask(serve, [noise + noise.join([events(FIRST), events(MIDDLE), events(LAST)])]))


async def test_no_done(serve: Serve) -> None:
    assert is_whole(*await ask(serve, [events(FIRST, MIDDLE, LAST)]))


async def test_done_twice_and_an_event_after_it(serve: Serve) -> None:
    assert is_whole(*await ask(serve, [events(FIRST, MIDDLE, LAST, b"[DONE]", b"[DONE]", MIDDLE)]))


async def test_a_last_event_without_its_blank_line(serve: Serve) -> None:
    assert is_whole(*await ask(serve, [events(FIRST, MIDDLE) + b"data: " + LAST]))


async def test_no_blank_line_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_gateway._sse._LONGEST_EVENT", 100_000)
    text, span = await ask(serve, [events(FIRST), *[b"data: " + b"x" * 10_000 + b"\n"] * 100])
    assert (text[:1], span.status) == ("<", SpanStatus.ERROR)
    assert span.attributes["error.type"] == "invalid_answer"


@pytest.mark.parametrize("more", [(), (USAGE,)])
async def test_usage_missing_or_last(serve: Serve, more: tuple[bytes, ...]) -> None:
    text, span = await ask(serve, [events(FIRST, MIDDLE, LAST, *more, b"[DONE]")])
    assert is_whole(text, span)
    assert ("gen_ai.usage.input_tokens" in span.attributes) == bool(more)


async def test_tool_calls_in_fragments_that_interleave_and_a_transition_from_reasoning(serve: Serve) -> None:
    def call(index: int, ident: int, **fields: object) -> bytes:
        function = {name: fields[name] for name in ("name", "arguments") if name in fields}
        return chunk({"tool_calls": [{"index": index, "function": function, **fields}]}, ids=[ident])

    stream = [
        FIRST,
        chunk({"reasoning_content": "so"}, ids=[10]),
        call(0, 11, id="a", type="function", name="f", arguments=""),
        call(1, 12, id="b", type="function", name="g"),
        call(0, 13, arguments='{"x":'),
        call(1, 14, arguments="{}"),
        call(0, 15, arguments=" 1}"),
        chunk({}, finish="tool_calls", ids=[16]),
    ]
    _, span = await ask(serve, [events(*stream, b"[DONE]")])
    (message,) = span.attributes["gen_ai.output.messages"]  # type: ignore[misc]
    assert message["reasoning_content"] == "so"
    made = [
        (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in message["tool_calls"]
    ]
    assert made == [("a", "f", '{"x": 1}'), ("b", "g", "{}")]
    assert list(span.tokens[0].response_ids) == list(range(10, 17))
    assert span.tokens[0].incomplete == ""


async def test_an_error_event_inside_a_200(serve: Serve) -> None:
    error = b'{"error": {"message": "out of memory", "code": 500}}'
    text, span = await ask(serve, [events(FIRST, MIDDLE, error)])
    assert text.startswith(TEXT + "<")
    assert "out of memory" in text
    assert span.attributes["gen_ai.output.messages"] == [{"role": "assistant", "content": TEXT}]
    assert "out of memory" in span.tokens[0].incomplete


@pytest.mark.parametrize("part", [b"{nonsense", b"null", b"[]", b"\xff\xfe", b"{" * 3000])
async def test_an_event_that_is_no_chunk(serve: Serve, part: bytes) -> None:
    text, span = await ask(serve, [events(FIRST, MIDDLE, part, LAST)])
    assert text.startswith(TEXT + "<")
    assert span.attributes["error.type"] == "invalid_answer"
    assert span.tokens[0].incomplete


async def test_the_client_gone_at_any_byte_is_recorded_and_ends_the_call(serve: Serve) -> None:
    """Left after each so many bytes of the answer, also before the first and after the last."""
    answer = ScriptedAnswer(text="abcd", chunk_chars=1, write_size=40)
    request = {"model": "m", "messages": HELLO, "stream": True}
    async with serve(lambda _: answer) as bench, aiohttp.ClientSession() as http:
        url, headers = (
            bench.gateway.base_url + "/v1/chat/completions",
            {"Authorization": f"Bearer {bench.key()}"},
        )
        async with http.post(url, json=request, headers=headers) as response:
            size = len(await response.read())
        points = [*range(0, size, 61), size]
        for point in points:
            async with http.post(url, json=request, headers=headers) as response:
                await response.content.readexactly(point)
                response.close()
        await bench.gateway.release(bench.attempt())
        spans = await bench.spans()
    assert len(spans) == 1 + len(points)
    for span in spans:
        (tokens,) = span.tokens or (None,)
        if span.attributes.get("agl.cancelled"):
            assert span.attributes["agl.incomplete"]
        else:
            assert list(tokens.response_ids) == answer.ids


async def test_a_client_that_leaves_a_silent_upstream_ends_that_call(serve: Serve) -> None:
    async with (
        upstream([events(FIRST, MIDDLE)], stall=True) as url,  # ends once the gateway has left it
        serve(upstreams={"m": HttpUpstream(base_url=url)}) as bench,
        bench.sdk() as sdk,
    ):
        stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await bench.gateway.release(bench.attempt())
        (span,) = await bench.spans()
    assert span.attributes["agl.cancelled"] is True
