from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from upstreams_bench import HELLO, Opened, Servers, event_stream, reply, route

from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from lightning_plugin_gateway._errors import ApiError

ASKED: dict[str, Any] = {
    "chat": HELLO,
    "completions": {"model": "m", "prompt": "hello"},
    "embeddings": {"model": "m", "input": "hello"},
    "responses": {"model": "m", "input": "hello"},
    "messages": {**HELLO, "max_tokens": 9},
}
EVERY = tuple(ASKED)
ANSWERS = {
    "chat": ("/v1/chat/completions", b'{"choices": []}'),
    "completions": ("/v1/completions", b'{"choices": []}'),
    "embeddings": ("/v1/embeddings", b'{"data": []}'),
    "responses": ("/v1/responses", b'{"output": []}'),
    "messages": ("/v1/messages", b'{"content": []}'),
}


def data(*events: str) -> list[bytes]:
    return [f"data: {event}\n\n".encode() for event in events]


async def read(model: Any, wire: str) -> list[Any]:
    request = {**ASKED[wire], "stream": True}
    return [event async for event in model.stream(wire, request, route=route())]


@pytest.mark.parametrize("wire", EVERY)
async def test_each_wire_is_asked_at_its_path_and_answered_in_its_form(
    servers: Servers, opened: Opened, wire: str
) -> None:
    path, body = ANSWERS[wire]
    async with servers([(reply(body), "keep")]) as (server,), opened(server.url, wires=EVERY) as model:
        assert await model.call(wire, ASKED[wire], route=route()) == msgspec.json.decode(body)
        head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert msgspec.json.decode(sent) == ASKED[wire]


@pytest.mark.parametrize("wire", EVERY)
async def test_what_is_no_answer_of_the_wire_is_told(servers: Servers, opened: Opened, wire: str) -> None:
    other = b'{"content": []}' if wire != "messages" else b'{"choices": []}'
    async with servers([(reply(other), "keep")]) as (server,), opened(server.url, wires=EVERY) as model:
        with pytest.raises(ApiError, match="something else than was asked for") as caught:
            await model.call(wire, ASKED[wire], route=route())
    assert (caught.value.status, caught.value.fault) == (502, "invalid_answer")


@pytest.mark.parametrize("wire", ["chat", "responses", "messages"])
async def test_real_streams_end_by_themselves_and_leave_the_connection_to_the_next(
    opened: Opened, wire: str
) -> None:
    with ScriptedLLM(lambda _: ScriptedAnswer(text="abcdefgh")) as llm:
        async with opened(llm.base_url, wires=EVERY) as model:
            first = await read(model, wire)
            assert await read(model, wire) != []
    kinds = [event.get("type") for event in first]
    assert kinds[-1] == {"chat": None, "responses": "response.completed", "messages": "message_stop"}[wire]
    assert len(first) > 3


STREAMS = {
    "done": ("chat", data('{"choices": []}', "[DONE]"), 1),
    "no done": ("chat", data('{"choices": []}'), 1),
    "done twice": ("chat", data('{"choices": []}', "[DONE]", "[DONE]"), 1),
    "more after done": ("chat", data('{"choices": []}', "[DONE]", '{"choices": []}', "nonsense"), 1),
    "done alone": ("chat", data("[DONE]"), 0),
    "nothing": ("chat", [], 0),
    "null error": ("chat", data('{"choices": [], "error": null}', "[DONE]"), 1),
    "no blank line at the end": ("chat", [b'data: {"choices": []}'], 1),
    "half an event at the end": ("chat", [*data('{"choices": []}'), b'data: {"cho'], 1),
    "many in one chunk": ("chat", [b"".join(data('{"choices": []}', '{"choices": []}', "[DONE]"))], 2),
    "messages": ("messages", data('{"type": "ping"}', '{"type": "message_stop"}', '{"type": "ping"}'), 2),
    "messages and done": ("messages", data('{"type": "message_stop"}', "[DONE]"), 1),
    "completed": ("responses", data('{"type": "response.completed"}', '{"type": "x"}'), 1),
    "incomplete": ("responses", data('{"type": "response.incomplete"}', '{"type": "x"}'), 1),
    "failed": ("responses", data('{"type": "response.failed"}', '{"type": "x"}'), 1),
    "not last": ("responses", data('{"type": "response.created"}', '{"type": "response.completed"}'), 2),
}


@pytest.mark.parametrize("case", STREAMS)
async def test_a_stream_ends_at_its_own_end(servers: Servers, opened: Opened, case: str) -> None:
    wire, events, count = STREAMS[case]
    async with (
        servers([(event_stream(*events), "keep")]) as (server,),
        opened(server.url, wires=EVERY) as model,
    ):
        assert len(await read(model, wire)) == count
        assert model.status().in_flight == 0


async def test_a_stream_that_goes_on_after_its_end_is_left(
    servers: Servers, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_gateway.upstreams._server._REST_S", 1000.0)
    endless = event_stream(*data('{"choices": []}', "[DONE]"), *[b": more\n" * 2000] * 20, close=False)
    async with servers([(endless, "stall")]) as (server,), opened(server.url) as model:
        assert len(await read(model, "chat")) == 1
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_connection_serves_one_call_after_the_other(servers: Servers, opened: Opened) -> None:
    def script(place: int) -> tuple[bytes, str]:
        events = data('{"choices": []}', "[DONE]")
        return (event_stream(*events) if place % 2 else reply(b'{"choices": []}')), "keep"

    async with servers(script) as (server,), opened(server.url) as model:
        for _ in range(5):
            await model.call("chat", HELLO, route=route())
            await read(model, "chat")
        assert (len(server.requests), server.connections) == (10, 1)


async def test_a_stream_whose_body_ends_after_its_last_event_leaves_its_connection_too(
    servers: Servers, opened: Opened
) -> None:
    ending = event_stream(*data('{"choices": []}', "[DONE]"), close=False)
    async with servers(lambda _: (ending, "end")) as (server,), opened(server.url) as model:
        for _ in range(20):
            await read(model, "chat")
            await asyncio.sleep(0.002)
        assert server.connections < 10


ERRORS: Sequence[tuple[str, str, int]] = [
    ("chat", '{"error": {"message": "lost"}}', 502),
    ("chat", '{"error": {"message": "lost", "code": 400}}', 400),
    ("chat", '{"error": {"message": "lost", "code": 503}}', 502),
    ("chat", '{"error": "lost"}', 502),
    ("messages", '{"type": "error", "error": {"type": "overloaded_error", "message": "lost"}}', 502),
    ("messages", '{"type": "error", "error": {"type": "invalid_request_error", "message": "lost"}}', 400),
    ("responses", '{"type": "error", "code": "server_error", "message": "lost"}', 502),
]


@pytest.mark.parametrize(("wire", "error", "status"), ERRORS)
async def test_an_error_event_inside_a_200_comes_after_what_came_before(
    servers: Servers, opened: Opened, wire: str, error: str, status: int
) -> None:
    events = b"".join(data('{"type": "x", "choices": []}', error, '{"choices": []}'))
    async with (
        servers([(event_stream(events), "keep")]) as (server,),
        opened(server.url, wires=EVERY) as model,
    ):
        stream = model.stream(wire, ASKED[wire], route=route())
        assert await anext(stream)
        with pytest.raises(ApiError, match="the upstream failed: lost") as caught:
            await anext(stream)
        assert (caught.value.status, caught.value.fault) == (status, "upstream_error")
        assert model.status().failures == 1


@pytest.mark.parametrize("event", ["nonsense", "[1]", "null", '"text"', '{"choices": 1}', "[" * 3000])
@pytest.mark.parametrize("first", [False, True])
async def test_an_event_that_is_none_of_its_wire_is_told(
    servers: Servers, opened: Opened, event: str, first: bool
) -> None:
    events = data(event) if first else data('{"choices": []}', event)
    async with servers([(event_stream(*events), "keep")]) as (server,), opened(server.url) as model:
        with pytest.raises(ApiError) as caught:
            await read(model, "chat")
    assert (caught.value.status, caught.value.fault) == (502, "invalid_answer")


@pytest.mark.parametrize(
    ("body", "told"),
    [(b'{"error": {"message": "no"}}', "failed: no"), (b'{"choices": []}', "something else than was asked")],
)
async def test_json_in_place_of_a_stream_is_told(
    servers: Servers, opened: Opened, body: bytes, told: str
) -> None:
    async with servers([(reply(body), "keep")]) as (server,), opened(server.url) as model:
        with pytest.raises(ApiError, match=told):
            await read(model, "chat")


async def test_an_answer_without_an_end_is_not_kept(
    servers: Servers, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_gateway.upstreams._server._LARGEST_ANSWER", 100_000)
    monkeypatch.setattr("lightning_plugin_gateway.upstreams._server._LARGEST_ERROR", 100_000)
    for status in (200, 400):
        async with (
            servers([(reply(b"x" * 200_000, status=status), "keep")]) as (server,),
            opened(server.url) as model,
        ):
            with pytest.raises(ApiError) as caught:
                await model.call("chat", HELLO, route=route())
        assert caught.value.fault == "invalid_answer"
