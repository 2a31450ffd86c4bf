from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from upstreams_bench import HELLO, Opened, Servers, answer, ask, event_stream, reply, route

from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream, Price
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams import HttpModel, HttpPolicy

KEY = "sk-canary-7"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", KEY)


def sent(request: bytes) -> dict[str, str]:
    _, *lines = request.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    return dict(line.split(": ", 1) for line in lines)


async def test_the_key_is_sent_as_each_wire_wants_it(servers: Servers, opened: Opened) -> None:
    good = (reply(b'{"choices": [], "content": []}'), "keep")
    async with servers([good, good]) as (server,):
        wires = ("chat", "messages")
        async with opened(server.url, wires=wires, api_key_env="UPSTREAM_KEY") as model:
            await model.call("chat", HELLO, route=route())
            await model.call("messages", HELLO, route=route())
        chat, messages = map(sent, server.requests)
    assert chat["authorization"] == f"bearer {KEY}"
    assert not {"x-api-key", "anthropic-version"} & chat.keys()
    assert (messages["x-api-key"], messages["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in messages


async def test_the_clients_headers_are_passed_on_but_never_in_place_of_the_key(
    servers: Servers, opened: Opened
) -> None:
    headers = {"anthropic-version": "2099-01-01", "anthropic-beta": "b", "x-api-key": "the client's"}
    async with servers([(reply(b'{"content": []}'), "keep")]) as (server,):
        async with opened(server.url, wires=("messages",), api_key_env="UPSTREAM_KEY") as model:
            await model.call("messages", HELLO, route=route(headers=headers))
            assert model.provider == "anthropic"
        found = sent(server.requests[0])
    assert (found["anthropic-version"], found["anthropic-beta"]) == ("2099-01-01", "b")
    assert found["x-api-key"] == KEY


async def test_no_excerpt_ends_within_the_key(servers: Servers, opened: Opened) -> None:
    for place in range(70, 78):
        body = b"x" * place + KEY.encode()
        async with (
            servers([(reply(body), "keep")]) as (server,),
            opened(server.url, api_key_env="UPSTREAM_KEY") as model,
        ):
            with pytest.raises(ApiError) as caught:
                await ask(model)
        assert "sk-" not in caught.value.message


LEAKS = ["{key}", "{url}", "{host}", "http://{host}/other and {key}"]


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("status", [200, 400, 401, 404, 422, 500, 503])
@pytest.mark.parametrize("form", ['{{"error": {{"message": "it is {}"}}}}', "<html>it is {}"])
async def test_no_error_tells_the_key_or_the_address(
    servers: Servers, opened: Opened, leak: str, status: int, form: str
) -> None:
    def script(_: int) -> tuple[bytes, str]:
        host = server.url.removeprefix("http://").removesuffix("/v1")
        told = leak.format(key=KEY, url=server.url, host=host)
        return reply(form.format(told).encode(), status=status), "keep"

    async with servers(script) as (server,), opened(server.url, api_key_env="UPSTREAM_KEY") as model:
        with pytest.raises(ApiError) as caught:
            await ask(model)
        body = caught.value.body.decode()
    assert KEY not in body
    assert str(server.port) not in body


async def test_no_error_inside_a_stream_tells_the_key(servers: Servers, opened: Opened) -> None:
    events = [
        b"data: " + answer("a") + b"\n\n",
        b'data: {"error": {"message": "it is %b"}}\n\n' % KEY.encode(),
    ]
    async with (
        servers([(event_stream(*events), "keep")]) as (server,),
        opened(server.url, api_key_env="UPSTREAM_KEY") as model,
    ):
        with pytest.raises(ApiError, match=r"it is \*\*\*"):
            assert [one async for one in model.stream("chat", HELLO, route=route())] == []


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_is_about_the_request_is_passed_on(servers: Servers, opened: Opened, status: int) -> None:
    body = msgspec.json.encode({"error": {"message": "too long", "code": status}})
    async with servers([(reply(body, status=status), "keep")]) as (server,), opened(server.url) as model:
        with pytest.raises(ApiError, match=f"answered {status}: too long") as caught:
            await ask(model)
    assert (caught.value.status, caught.value.fault, caught.value.final) == (status, "upstream_error", True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "give a URL such as"),
        ({"base_url": "ftp://127.0.0.1/v1"}, "give a URL such as"),
        ({"base_url": "http:///v1"}, "give a URL such as"),
        ({"base_url": "http://127.0.0.1:port/v1"}, "is no URL"),
        ({"base_url": f"http://user:{KEY}@127.0.0.1/v1"}, "has a password in it"),
        ({"base_url": "http://127.0.0.1/v1?key=1"}, "has a query"),
        ({"replicas": ("nonsense",)}, "'nonsense' cannot be used"),
        ({"wires": ("chat", "telepathy")}, "'telepathy'.*name at least one of 'chat'"),
        ({"wires": ()}, "name at least one"),
        ({"api_key_env": "NO_SUCH_KEY"}, "'NO_SUCH_KEY', which is not set"),
        ({"api_key_env": KEY}, "looks more like a key"),
        ({"max_concurrency": -1}, "`max_concurrency` of an upstream is -1"),
        ({"price": Price(prompt=float("nan"), response=1.0)}, "`price.prompt` of an upstream is nan"),
        ({"price": Price(prompt=0.0, response=-0.5)}, "`price.response` of an upstream is -0.5"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        HttpModel(HttpUpstream(**{"base_url": "http://127.0.0.1:1/v1", **options}), policy=HttpPolicy())
    assert KEY not in str(caught.value)


async def test_a_server_at_a_unix_socket_is_asked_there(tmp_path: Path, opened: Opened) -> None:
    async def good(_: web.Request) -> web.Response:
        return web.Response(body=answer("good"), content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", good)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = tmp_path / "llm.sock"
    await web.UnixSite(runner, str(socket)).start()
    try:
        async with opened(f"http+unix://{str(socket).replace('/', '%2F')}/v1") as model:
            assert await ask(model) == "good"
    finally:
        await runner.cleanup()
