"""Servers that speak nearly the right wire: what their streams say reaches the client and the record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import msgspec
import openai
import pytest
from aiohttp import web

from agentlightning import semconv
from agentlightning.gateway import HttpUpstream
from agentlightning.types import Json, SpanStatus

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Event = Mapping[str, Json]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
FRAME: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE: dict[str, Any] = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def chunk(delta: Json, *, finish: str | None = None, **more: Json) -> Event:
    return {**FRAME, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def call(name: str, arguments: Json, **more: Json) -> dict[str, Json]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


BEGIN, TEXT, END = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hi"}),
    chunk({}, finish="stop"),
)
CALLED = chunk({}, finish="tool_calls")


@asynccontextmanager
async def upstream(answer: Sequence[Event] | web.Response) -> AsyncIterator[HttpUpstream]:
    """A server that gives this stream, or this answer, to whatever it is asked."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        if isinstance(answer, web.Response):
            return answer
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in answer:
            await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    application = web.Application()
    application.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield HttpUpstream(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", wires=("chat",))
    finally:
        await runner.cleanup()


async def streamed(bench: Any) -> list[Any]:
    async with bench.sdk() as sdk:
        return [
            part async for part in await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        ]


@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": []}])
async def test_usage_that_only_the_gateway_asked_for_has_no_choices_and_is_not_told(
    serve: Serve, choices: dict[str, Any]
) -> None:
    told = [BEGIN, TEXT, END, {**FRAME, **choices, "usage": USAGE}]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        parts = await streamed(bench)
        (span,) = await bench.spans()
    assert len(parts) == 3
    assert (span.status, span.attributes[semconv.OUTPUT_TOKENS]) == (SpanStatus.OK, 3)


@pytest.mark.parametrize(
    "calls",
    [
        ([call("f", "{}", id="a")], [call("g", '{"x": 1}', id="b")]),
        ([call("f", "{}", id="a", index=0)], [call("g", '{"x": 1}', id="b", index=0)]),
    ],
    ids=["no index", "one index"],
)
async def test_calls_with_ids_of_their_own_stay_apart(serve: Serve, calls: Any) -> None:
    told = [BEGIN, *(chunk({"tool_calls": some}) for some in calls), CALLED]
    expected = [("a", "f", "{}"), ("b", "g", '{"x": 1}')]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        parts = await streamed(bench)
        key = bench.key()
        async with (
            anthropic.AsyncAnthropic(base_url=bench.gateway.base_url, api_key=key, max_retries=0) as sdk,
            sdk.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream,
        ):
            message = await stream.get_final_message()
        spans = await bench.spans()
    indices = {
        one.id: one.index for part in parts for one in part.choices[0].delta.tool_calls or () if one.id
    }
    assert indices == {"a": 0, "b": 1}
    assert [(block.id, block.name) for block in message.content if block.type == "tool_use"] == [
        (ident, name) for ident, name, _ in expected
    ]
    for span in spans:
        recorded = span.attributes[semconv.OUTPUT_MESSAGES][0]["tool_calls"]
        assert [
            (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in recorded
        ] == expected


async def test_calls_of_one_id_stay_apart_by_their_index(serve: Serve) -> None:
    calls = [[call("f", "1", id="same", index=0)], [call("g", "2", id="same", index=1)]]
    told = [*(chunk({"tool_calls": some}) for some in calls), CALLED]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        await streamed(bench)
        (span,) = await bench.spans()
    recorded = span.attributes[semconv.OUTPUT_MESSAGES][0]["tool_calls"]
    assert [one["function"]["name"] for one in recorded] == ["f", "g"]


async def test_a_server_that_names_each_fragment_anew_makes_one_call(serve: Serve) -> None:
    pieces = [{"index": 0, "id": f"random-{place}", "function": {"arguments": "1"}} for place in range(3)]
    told = [chunk({"tool_calls": [call("f", "", id="a", index=0)]})]
    told += [chunk({"tool_calls": [piece]}) for piece in pieces]
    async with upstream([*told, CALLED]) as there, serve(upstreams={"m": there}) as bench:
        await streamed(bench)
        (span,) = await bench.spans()
    (recorded,) = span.attributes[semconv.OUTPUT_MESSAGES][0]["tool_calls"]
    assert recorded["function"] == {"name": "f", "arguments": "111"}


async def test_arguments_that_are_an_object_are_recorded_as_its_json(serve: Serve) -> None:
    told = [BEGIN, chunk({"tool_calls": [call("f", {"x": 1}, id="a", index=0)]}), CALLED]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        assert len(await streamed(bench)) == 3
        (span,) = await bench.spans()
    (recorded,) = span.attributes[semconv.OUTPUT_MESSAGES][0]["tool_calls"]
    assert recorded["function"] == {"name": "f", "arguments": '{"x":1}'}


async def test_a_function_call_of_the_older_kind_is_recorded(serve: Serve) -> None:
    said = [{"name": "f", "arguments": ""}, {"arguments": "{"}, {"arguments": "}"}]
    told = [
        *(chunk({"content": None, "function_call": piece}) for piece in said),
        chunk({}, finish="function_call"),
    ]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        await streamed(bench)
        (span,) = await bench.spans()
    (message,) = span.attributes[semconv.OUTPUT_MESSAGES]
    assert message["function_call"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("index", [-1, [], {}, "0", None])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_of_an_odd_index_is_answered_in_text(serve: Serve, index: Json, stream: bool) -> None:
    choice = {"index": index, "finish_reason": "stop"}
    if stream:
        answer: Any = [{**FRAME, "choices": [{**choice, "delta": {"content": "hi"}}]}]
    else:
        message = {"role": "assistant", "content": "hi"}
        answer = web.json_response({**FRAME, "choices": [{**choice, "message": message}], "usage": USAGE})
    async with upstream(answer) as there, serve(upstreams={"m": there}) as bench, bench.sdk() as sdk:
        found = await sdk.completions.create(model="m", prompt="x", stream=stream)
        text = [part.choices[0].text async for part in found] if stream else [found.choices[0].text]
        assert "".join(text) == "hi"
        assert len(await bench.spans()) == 1


OWN = {
    "message": "too long",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        (OWN, ("invalid_request_error", "messages", "context_length_exceeded")),
        ({**OWN, "type": None, "param": 5, "code": ""}, ("invalid_request_error", None, "upstream_error")),
        ({**OWN, "code": "see http://elsewhere"}, ("invalid_request_error", "messages", "upstream_error")),
    ],
)  # fmt: skip
async def test_an_agent_can_tell_the_upstreams_errors_apart(serve: Serve, own: Any, seen: Any) -> None:
    answer = web.json_response({"error": own}, status=400)
    async with upstream(answer) as there, serve(upstreams={"m": there}) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        (span,) = await bench.spans()
    assert (caught.value.type, caught.value.param, caught.value.code) == seen
    assert span.attributes[semconv.ERROR_TYPE] == "upstream_error"


async def test_an_upstreams_own_code_tells_no_secret(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITS_KEY", "sk-canary")
    answer = web.json_response({"error": {**OWN, "code": "bad-sk-canary"}}, status=400)
    async with upstream(answer) as there:
        keyed = msgspec.structs.replace(there, api_key_env="ITS_KEY")
        async with serve(upstreams={"m": keyed}) as bench, bench.sdk() as sdk:
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.code == "upstream_error"
    assert "canary" not in str(caught.value.body)


@pytest.mark.parametrize("detail", ["no such field", [{"loc": ["body", "n"], "msg": "no such field"}]])
async def test_an_error_in_the_form_of_many_python_servers_is_told(serve: Serve, detail: Json) -> None:
    answer = web.json_response({"detail": detail}, status=422)
    async with upstream(answer) as there, serve(upstreams={"m": there}) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.UnprocessableEntityError, match="no such field"):
            await sdk.chat.completions.create(model="m", messages=HELLO)


@pytest.mark.parametrize("raw", [b"", b" ", b" [DONE] "])
async def test_white_space_in_a_stream_says_nothing(serve: Serve, raw: bytes) -> None:
    blank: Any = msgspec.Raw(raw)
    told = [*([] if raw.strip() else [blank]), BEGIN, TEXT, END, blank]
    async with upstream(told) as there, serve(upstreams={"m": there}) as bench:
        assert len(await streamed(bench)) == 3
        (span,) = await bench.spans()
    assert span.status is SpanStatus.OK


async def test_a_stream_without_an_end_is_not_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_gateway.upstreams._server._LARGEST_ANSWER", 100_000)
    told = [chunk({"content": "x" * 10_000}) for _ in range(50)]
    async with upstream([*told, END]) as there, serve(upstreams={"m": there}) as bench:
        headers = {"Authorization": f"Bearer {bench.key()}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(
                bench.gateway.base_url + "/v1/chat/completions",
                json={"model": "m", "messages": HELLO, "stream": True},
            ) as response,
        ):
            assert "more than 100000 bytes" in (await response.text())
        (span,) = await bench.spans()
    assert span.attributes[semconv.ERROR_TYPE] == "invalid_answer"
