"""Apps of plugins: admitted, bounded and isolated as the server's own endpoints are."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import aiohttp
import pytest

from agentlightning.apps import AppContext, AsgiApp, Receive, Send
from agentlightning.credentials import KeyRing, Scope
from agentlightning.errors import ConfigError
from agentlightning.specs import AppSpec
from agentlightning.store import MemoryStore
from lightning_plugin_server import ServerConfig
from lightning_plugin_server._mounts import Mount, load_mounts
from lightning_plugin_server.testing import running_server

VIEWER = frozenset({Scope.VIEWER})
KEYS = KeyRing("a key for tests only")


async def hello(scope: object, receive: Receive, send: Send) -> None:
    assert isinstance(scope, dict)
    while (await receive()).get("more_body"):
        pass
    text = f"{scope['root_path']}|{scope['path']}|{getattr(scope['agl.credential'], 'scope', None)}".encode()
    await send(
        {"type": "http.response.start", "status": 203, "headers": [(b"x-frame-options", b"SAMEORIGIN")]}
    )
    await send({"type": "http.response.body", "body": text})


async def broken(scope: object, receive: Receive, send: Send) -> None:
    raise KeyError("innards")


async def get(
    http: aiohttp.ClientSession, path: str, key: str | None, data: bytes | None = None
) -> tuple[int, str]:
    headers = {} if key is None else {"x-api-key": key}
    async with http.request("POST" if data else "GET", path, headers=headers, data=data) as response:
        return response.status, await response.text()


async def test_an_app_is_called_only_for_those_it_admits() -> None:
    with running_server(MemoryStore(), mounts=[Mount(prefix="/hello", app=hello, scopes=VIEWER)]) as server:
        async with aiohttp.ClientSession(server.url) as http:
            viewer = server.key_for(Scope.VIEWER)
            assert (await get(http, "/hello/x", None))[0] == 401
            assert (await get(http, "/hello/x", server.key_for(Scope.RUNNER)))[0] == 403
            assert (await get(http, "/hellox", server.key))[0] == 404
            assert await get(http, "/hello/x", viewer) == (203, "/hello|/x|viewer")
            assert await get(http, "/hello", viewer) == (203, "/hello|/|viewer")


async def test_an_app_at_the_root_hides_no_endpoint_and_the_longest_prefix_wins() -> None:
    mounts = [Mount(prefix="", app=hello, public=True), Mount(prefix="/a/b", app=hello, public=True)]
    with running_server(MemoryStore(), mounts=mounts) as server:
        async with aiohttp.ClientSession(server.url) as http:
            assert (await get(http, "/metrics", None))[0] == 401
            assert (await get(http, "/healthz", None)) == (200, "{}")
            assert (await get(http, "/a", None))[1] == "|/a|None"
            assert (await get(http, "/a/b/c", None))[1] == "/a/b|/c|None"


async def test_answers_of_apps_have_the_headers_of_all_answers() -> None:
    with running_server(MemoryStore(), mounts=[Mount(prefix="/x", app=hello, public=True)]) as server:
        async with aiohttp.ClientSession(server.url) as http, http.get("/x") as response:
            assert response.headers.getall("x-frame-options") == ["SAMEORIGIN"]
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_an_app_gets_no_larger_a_body_than_the_server_takes() -> None:
    config = ServerConfig(max_body_bytes=1000)
    with running_server(
        MemoryStore(), config=config, mounts=[Mount(prefix="/x", app=hello, public=True)]
    ) as server:
        async with aiohttp.ClientSession(server.url) as http:
            assert (await get(http, "/x", None, b"x" * 1000))[0] == 203
            assert (await get(http, "/x", None, b"x" * 1001))[0] == 413


async def test_an_app_that_fails_is_500_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with running_server(MemoryStore(), mounts=[Mount(prefix="/x", app=broken, public=True)]) as server:
        async with aiohttp.ClientSession(server.url) as http:
            status, text = await get(http, "/x", None)
            assert (status, "innards" in text) == (500, False)
            assert (await get(http, "/healthz", None))[0] == 200
    assert "innards" in caplog.text


class FakePlugins:
    """Plugins with apps, some of which cannot be loaded."""

    def __init__(self, **mounts: str) -> None:
        self._specs = {
            name: AppSpec(name=name, target="x:y", summary=name, mount=mount, scopes=("viewer",))
            for name, mount in mounts.items()
        }

    def apps(self) -> Mapping[str, AppSpec]:
        return self._specs

    def load(self, spec: AppSpec) -> object:
        def build(context: AppContext) -> AsgiApp:
            if spec.name.startswith("broken"):
                raise RuntimeError("it cannot start")
            return hello

        return build


async def test_an_app_gets_its_own_options_and_one_that_is_left_out_is_not_there() -> None:
    contexts: dict[str, AppContext] = {}

    class Plugins(FakePlugins):
        def load(self, spec: AppSpec) -> object:
            def build(context: AppContext) -> AsgiApp:
                contexts[spec.name] = context
                return hello

            return build

    plugins = Plugins(one="/one", two="/two")
    options = {"one": {"size": 3}}
    for wanted, prefixes in (((), ["/one"]), (("two",), ["/one", "/two"])):
        mounts = load_mounts(
            plugins,  # type: ignore[arg-type]
            store=MemoryStore(),
            keys=KEYS,
            wanted=wanted,
            left_out=("two",),
            options=options,
        )
        assert [mount.prefix for mount in mounts] == prefixes
    assert (contexts["one"].options, contexts["two"].options) == ({"size": 3}, {})


class Closing:
    """An app that ends what it has begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.closed = 0
        self.error = error

    async def __call__(self, scope: object, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)

    async def aclose(self) -> None:
        self.closed += 1
        if self.error:
            raise self.error


async def test_apps_are_closed_once_when_the_server_stops_also_after_one_that_cannot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    apps = [Closing(RuntimeError("innards")), Closing()]
    mounts = [Mount(prefix=f"/{place}", app=app, public=True) for place, app in enumerate(apps)]
    with running_server(MemoryStore(), mounts=mounts) as server:
        async with aiohttp.ClientSession(server.url) as http:
            assert (await get(http, "/1", None))[0] == 203
        assert [app.closed for app in apps] == [0, 0]
    assert [app.closed for app in apps] == [1, 1]
    assert "innards" in caplog.text


class Telling:
    """An app that tells metrics."""

    def __init__(self, told: str | Exception) -> None:
        self.told = told

    async def __call__(self, scope: object, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)

    def metrics(self) -> str:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


async def test_apps_tell_metrics_and_one_that_cannot_hides_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    apps = [Telling("agl_one 1"), Telling(RuntimeError("innards")), Telling("agl_two 2\n"), hello]
    mounts = [Mount(prefix=f"/{place}", app=app, public=True) for place, app in enumerate(apps)]
    with running_server(MemoryStore(), mounts=mounts) as server:
        async with aiohttp.ClientSession(server.url) as http:
            status, text = await get(http, "/metrics", server.key)
    assert (status, text.splitlines()[-2:]) == (200, ["agl_one 1", "agl_two 2"])
    assert "agl_rollouts" in text
    assert ("innards" in caplog.text, "innards" in text) == (True, False)


async def load(plugins: FakePlugins, *wanted: str) -> list[str]:
    mounts = load_mounts(plugins, store=MemoryStore(), keys=KEYS, wanted=wanted)  # type: ignore[arg-type]
    return [mount.prefix for mount in mounts]


async def test_an_app_that_cannot_start_is_left_out_unless_it_was_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    plugins = FakePlugins(good="/good/", broken="/broken", gateway="")
    assert await load(plugins) == ["/good"]
    assert "it cannot start" in caplog.text
    with pytest.raises(RuntimeError, match="cannot start"):
        await load(plugins, "broken")
    with pytest.raises(ConfigError, match="broken, good"):
        await load(plugins, "nothing")


async def test_two_apps_at_one_prefix_are_refused() -> None:
    with pytest.raises(ConfigError, match="'/a'"):
        await load(FakePlugins(one="/a", two="/a/"))
