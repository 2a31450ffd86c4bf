"""What a client makes of URLs, keys, and answers of all kinds."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from agentlightning import errors
from agentlightning.credentials import Scope
from agentlightning.errors import (
    ConfigError,
    Forbidden,
    NotFound,
    ServerError,
    StoreUnavailable,
    Unauthorised,
)
from agentlightning.store.wire import ERROR_STATUS, ErrorBody, Fault
from agentlightning.types import RolloutRequest
from lightning_plugin_server import HttpStore
from lightning_plugin_server.client._faults import error_of
from lightning_plugin_server.testing import RunningServer

SECRET = "agl-canary-secret"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handle: Handler) -> AsyncIterator[str]:
    """A server that answers every call the same way, and is healthy; its URL."""

    async def healthy(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthy), web.route("*", "/{path:.*}", handle)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://me:{SECRET}@host", "must not carry a credential"),
        (f"http://host?key={SECRET}", "no parameter 'key'.*AGL_KEY or key_file"),
        (f"http://host?api_token={SECRET}", "AGL_KEY or key_file"),
        (f"http://host?patiense_s=3&x={SECRET}", "no parameter 'patiense_s'"),
        ("http://host?patience_s=soon", "patience_s must be a number from 0 on, got 'soon'"),
        ("http://host?spool_mb=-1", "spool_mb must be a number from 0 on"),
        ("http://", "names no server"),
        ("http://host:port", "cannot be read"),
        ("http://host:99999", "cannot be read"),
        ("http://host#part", "names no server"),
        ("http://host?key_file=nowhere", "no key file 'nowhere'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_a_secret(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        HttpStore(url)
    assert SECRET not in str(caught.value)


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_KEY", f"{SECRET}\r\nX-Other: header")
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        HttpStore("http://host")
    assert SECRET not in str(caught.value)


def test_the_url_of_a_store_has_no_parameters(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(SECRET)
    store = HttpStore(f"http://host:1/below/?key_file={key}&patience_s=2")
    assert store.url == "http://host:1/below"
    assert SECRET not in repr(store) + str(vars(store))


async def test_a_wrong_key_is_refused_with_advice(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_KEY", SECRET)
    async with HttpStore(running.url) as store:
        with pytest.raises(Unauthorised, match="set AGL_KEY to the server's key") as caught:
            await store.rollouts.lease("worker")
    assert SECRET not in str(caught.value)


async def test_no_key_is_refused_with_advice(running: RunningServer) -> None:
    async with HttpStore(running.url) as store:
        with pytest.raises(Unauthorised, match=r"needs a key.*AGL_KEY"):
            await store.rollouts.lease("worker")


async def test_a_key_of_too_small_a_scope_is_forbidden(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_KEY", running.key_for(Scope.VIEWER))
    async with HttpStore(running.url) as store:
        with pytest.raises(Forbidden, match="scope 'viewer' may not"):
            await store.rollouts.enqueue([RolloutRequest(task=1)])


@pytest.mark.parametrize("kind", ERROR_STATUS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_what_was_raised(kind: type[Exception]) -> None:
    body = msgspec.json.encode(ErrorBody(error=Fault(type=kind.__name__, message="told so")))
    error = error_of(ERROR_STATUS[kind], body, url="http://host")
    assert type(error) is kind
    assert "told so" in str(error)


@pytest.mark.parametrize(
    "name", ["Nonsense", "SystemExit", "annotations", "__all__", "KeyboardInterrupt", ""]
)
def test_an_error_of_an_unknown_kind_is_the_servers(name: str) -> None:
    body = msgspec.json.encode(ErrorBody(error=Fault(type=name, message="x" * 100_000)))
    error = error_of(500, body, url="http://host")
    assert type(error) is ServerError
    assert len(str(error)) < 5_000


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"error": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_an_answer_of_something_else_says_so(body: bytes) -> None:
    error = error_of(404, body, url="http://host")
    assert isinstance(error, ServerError)
    assert "http://host answered 404 with something that no agentlightning server says" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


async def test_a_server_of_another_version_is_told_from_a_rollout_that_is_not_there(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_KEY", running.key)
    endpoints = running.app._table
    monkeypatch.delitem(endpoints, "/api/rollouts/cancel")
    async with HttpStore(running.url) as store:
        with pytest.raises(NotFound, match="nobody"):
            await store.rollouts.get("nobody")
        with pytest.raises(ServerError, match="is of another version"):
            await store.rollouts.cancel(["nobody"])


async def test_redirects_are_not_followed() -> None:
    calls: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        calls.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(redirect) as url, HttpStore(url) as store:
        with pytest.raises(ServerError, match="answered 307"):
            await store.sweep()
    assert calls == ["/api/store/sweep"]


async def test_an_answer_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_server.client._transport._LARGEST_ANSWER", 2**20)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(bytes(2**18))
        return response

    async with answering(endless) as url, HttpStore(url) as store:
        with pytest.raises(ServerError, match="more than 1048576 bytes"):
            await store.sweep()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"not msgpack", msgspec.msgpack.encode("text")])
async def test_an_answer_of_another_type_says_so(body: bytes) -> None:
    async def strange(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async with answering(strange) as url, HttpStore(url) as store:
        with pytest.raises(ServerError, match="something else than was expected"):
            await store.sweep()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    calls = 0

    async def busy_at_first(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls < 3:
            return web.Response(status=status, headers={"Retry-After": "0"}, body=b"<html>busy</html>")
        return web.Response(body=msgspec.msgpack.encode(7))

    async with answering(busy_at_first) as url, HttpStore(url) as store:
        assert await store.sweep() == 7
    assert calls == 3


async def test_a_server_is_not_asked_before_the_time_that_it_named() -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": "3600"})

    async with answering(busy) as url, HttpStore(f"{url}?patience_s=5") as store:
        with pytest.raises(StoreUnavailable):
            await store.sweep()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
async def test_other_refusals_are_final(status: int) -> None:
    calls = 0

    async def refuse(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return web.Response(status=status)

    async with answering(refuse) as url, HttpStore(url) as store:
        with pytest.raises(errors.ServerError):
            await store.sweep()
    assert calls == 1


async def test_a_long_wait_is_asked_for_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_server.client._parts._ROUND_S", 0.02)
    asked: list[tuple[str, float]] = []

    async def nothing(request: web.Request) -> web.StreamResponse:
        arguments = msgspec.msgpack.decode(await request.read())
        asked.append((arguments["idempotency_key"], arguments["wait_s"]))
        await asyncio.sleep(arguments["wait_s"])
        return web.Response(body=msgspec.msgpack.encode([]))

    async with answering(nothing) as url, HttpStore(url) as store:
        assert await store.rollouts.lease("worker", wait_s=0.1) == []
    assert len(asked) >= 5
    assert len({key for key, _ in asked}) == 1
    assert max(wait_s for _, wait_s in asked) <= 0.02


async def test_a_lease_whose_key_is_used_up_goes_on_under_another() -> None:
    keys: list[str] = []

    async def used_up(request: web.Request) -> web.StreamResponse:
        arguments = msgspec.msgpack.decode(await request.read())
        keys.append(arguments["idempotency_key"])
        if len(keys) == 2:
            await asyncio.sleep(arguments["wait_s"])
        return web.Response(body=msgspec.msgpack.encode([]))

    async with answering(used_up) as url, HttpStore(url) as store:
        assert await store.rollouts.lease("worker", wait_s=0.2) == []
        assert len(set(keys)) == 2
        assert await store.rollouts.lease("worker", wait_s=0.2, idempotency_key="mine") == []
    assert keys[2:] == ["mine"]


async def test_a_large_batch_of_spans_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_server.client._appending._BODY_BYTES", 10_000)
    from agentlightning.store import AppendResult
    from agentlightning.types import Span, SpanSource

    seen: list[str] = []
    sizes: list[int] = []

    async def count(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        sizes.append(len(body))
        part = [span["span_id"] for span in msgspec.msgpack.decode(body)["spans"]]
        seen.extend(part)
        return web.Response(body=msgspec.msgpack.encode(AppendResult(stored=len(part))))

    spans = [
        Span(
            rollout_id="r",
            attempt_id="a",
            span_id=f"{number:016x}",
            trace_id="1" * 32,
            name="call",
            operation="chat",
            source=SpanSource.EMIT,
            start_ns=1,
            end_ns=2,
            attributes={"text": "x" * (100 * number)},
        )
        for number in range(60)
    ]
    async with answering(count) as url, HttpStore(url) as store:
        assert (await store.spans.append(spans)).stored == 60
    assert seen == [span.span_id for span in spans]
    assert len(sizes) > 10
    assert max(sizes) <= 10_000
