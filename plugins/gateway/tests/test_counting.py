"""`count_tokens`: by the upstream's own endpoint where it speaks Messages, else by the length of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anthropic
import pytest
from aiohttp import web

from agentlightning.gateway import GatewayConfig, HttpUpstream
from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Answers = Mapping[str, tuple[int, Mapping[str, Any]]]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
COUNT, MESSAGES = "/v1/messages/count_tokens", "/v1/messages"
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
    "content": [{"type": "text", "text": "h"}], "stop_reason": "max_tokens",
    "usage": {"input_tokens": 5, "output_tokens": 1},
}  # fmt: skip
MISSING = {"type": "error", "error": {"type": "not_found_error", "message": "no such endpoint"}}


class Asked:
    """A server's URL, and what it was asked: path, headers and body."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]


@asynccontextmanager
async def claude_server(answers: Answers) -> AsyncIterator[Asked]:
    """A server that answers these paths with a status and a body."""
    asked = Asked()

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked.requests.append((request.path, headers, await request.json()))
        status, body = answers[request.path]
        return web.json_response(dict(body), status=status)

    application = web.Application()
    application.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    asked.url = f"{site.name}/v1"
    try:
        yield asked
    finally:
        await runner.cleanup()


def sdk_of(bench: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=bench.gateway.base_url, api_key=bench.key(), max_retries=0)


def upstream(server: Asked, *wires: str) -> dict[str, HttpUpstream]:
    return {"m": HttpUpstream(base_url=server.url, wires=wires, token_ids=False, model="claude")}


@pytest.mark.parametrize("wires", [("messages",), ("chat", "messages")])
async def test_a_server_that_speaks_messages_counts_itself_what_the_client_sent(
    serve: Serve, wires: tuple[str, ...]
) -> None:
    async with (
        claude_server({COUNT: (200, {"input_tokens": 7})}) as server,
        serve(upstreams=upstream(server, *wires)) as bench,
        sdk_of(bench) as sdk,
    ):
        beta = {"anthropic-beta": "a-beta", "x-secret": "mine"}
        counted = await sdk.messages.count_tokens(
            model="m", messages=HELLO, system="s", extra_headers=beta, extra_body={"api_base": "http://evil"}
        )
        spans = await bench.spans()
    ((path, headers, sent),) = server.requests
    assert (counted.input_tokens, path, spans) == (7, COUNT, [])
    assert sent == {"model": "claude", "messages": HELLO, "system": "s"}
    assert (headers["anthropic-beta"], "x-secret" in headers) == ("a-beta", False)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_the_endpoint_is_asked_for_one_token(serve: Serve, status: int) -> None:
    async with (
        claude_server({COUNT: (status, MISSING), MESSAGES: (200, MESSAGE)}) as server,
        serve(upstreams=upstream(server, "messages")) as bench,
        sdk_of(bench) as sdk,
    ):
        counted = await sdk.messages.count_tokens(model="m", messages=HELLO, system="s")
    assert (counted.input_tokens, server.paths) == (5, [COUNT, MESSAGES])
    sent = server.requests[1][2]
    assert (sent["max_tokens"], sent["system"], sent["model"]) == (1, "s", "claude")


async def test_what_the_endpoint_refuses_is_told_and_nothing_else_is_asked(serve: Serve) -> None:
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "no such tool"}}
    async with (
        claude_server({COUNT: (400, refusal)}) as server,
        serve(upstreams=upstream(server, "messages")) as bench,
        sdk_of(bench) as sdk,
    ):
        with pytest.raises(anthropic.BadRequestError, match="no such tool"):
            await sdk.messages.count_tokens(model="m", messages=HELLO)
    assert server.paths == [COUNT]


async def test_an_answer_without_a_count_is_told(serve: Serve) -> None:
    async with (
        claude_server({COUNT: (200, MESSAGE)}) as server,
        serve(upstreams=upstream(server, "messages")) as bench,
        sdk_of(bench) as sdk,
    ):
        with pytest.raises(anthropic.APIStatusError, match="something else than was asked for"):
            await sdk.messages.count_tokens(model="m", messages=HELLO)


async def test_a_server_that_speaks_chat_alone_is_asked_for_one_token(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text="h")]) as bench, sdk_of(bench) as sdk:
        counted = await sdk.messages.count_tokens(model="m", messages=HELLO)
        (asked,) = bench.llm.requests
    assert (counted.input_tokens > 0, asked.json["max_tokens"]) == (True, 1)


async def test_a_pause_does_not_count_towards_the_time_that_counting_may_take(serve: Serve) -> None:
    config = GatewayConfig(call_timeout_s=0.2)
    async with serve([ScriptedAnswer(text="h")], config=config) as bench, sdk_of(bench) as sdk:
        async with bench.gateway.paused():
            counting = asyncio.create_task(sdk.messages.count_tokens(model="m", messages=HELLO))
            await asyncio.wait([counting], timeout=0.5)
            assert not counting.done()
        assert (await counting).input_tokens > 0


def test_counting_is_no_wire_that_an_upstream_may_speak() -> None:
    from agentlightning.errors import ConfigError
    from lightning_plugin_gateway import HttpPolicy
    from lightning_plugin_gateway.upstreams import HttpModel

    upstream = HttpUpstream(base_url="http://127.0.0.1:1/v1", wires=("count_tokens",))
    with pytest.raises(ConfigError, match="'messages'"):
        HttpModel(upstream, policy=HttpPolicy())
