"""What a key reaches: every route is walked with every kind of wrong key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import pytest

from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.gateway import AttemptGrant, GatewayConfig
from agentlightning.store import MemoryStore
from agentlightning.types import Mode
from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._attribution import Attribution
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._route import ROUTES, Route

Serve = Callable[..., AbstractAsyncContextManager[Any]]
SECRET = "a secret of the tests"
HELLO = [{"role": "user", "content": "hello"}]
BODIES: Mapping[str, Mapping[str, object]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": HELLO},
}


@asynccontextmanager
async def walk(serve: Serve, **config: Any) -> AsyncIterator[tuple[Any, Callable[..., Any]]]:
    """A gateway whose keys are the tests' own, and a way to call it."""
    async with (
        serve(config=GatewayConfig(**config), keys=KeyRing(SECRET)) as bench,
        aiohttp.ClientSession() as http,
    ):

        async def call(
            method: str, path: str, *, key: str = "", prefix: str = "", headers: Mapping[str, str] = {}
        ) -> tuple[int, dict[str, Any]]:
            url = bench.gateway.base_url + prefix + path.replace("{model}", "m")
            body = {"model": "m", **BODIES[path]} if method == "POST" else None
            named = {"Authorization": f"Bearer {key}"} if key else {}
            async with http.request(method, url, json=body, headers={**named, **headers}) as response:
                return response.status, await response.json(content_type=None)

        yield bench, call


def issued(scope: Scope, **fields: Any) -> str:
    return KeyRing(SECRET).issue(Credential(scope=scope, **fields))


async def test_every_route_refuses_every_key_that_is_not_an_attempts(serve: Serve) -> None:
    async with walk(serve) as (bench, call):
        wrong = {
            "": 401,
            "sk-canary-1234": 401,
            "agl-" + "A" * 80: 401,
            KeyRing("another server's secret").issue(Credential(scope=Scope.ADMIN)): 401,
            issued(Scope.AGENT, rollout_id="r1", attempt_id=bench.attempt(), expires_at=1.0): 401,
            bench.key()[:-4] + "AAAA": 401,
            issued(Scope.AGENT): 403,
            issued(Scope.VIEWER): 403,
            issued(Scope.REWARD, rollout_id="r1", attempt_id=bench.attempt()): 403,
        }
        for method, path in ROUTES:
            for key, status in wrong.items():
                found, body = await call(method, path, key=key)
                assert found == status, (method, path, key)
                assert not key or (key not in str(body) and "canary" not in str(body))
                assert "error" in body
        assert bench.llm.requests == []
        assert await bench.spans() == []


async def test_every_route_refuses_an_agents_key_at_another_attempts_url(serve: Serve) -> None:
    async with walk(serve) as (bench, call):
        for method, path in ROUTES:
            for prefix in (
                f"/r/r2/{bench.attempt('r2')}",
                f"/r/r2/{bench.key()}",
                f"/r/r1/{bench.attempt('r2')}",
            ):
                assert (await call(method, path, key=bench.key(), prefix=prefix))[0] == 403, (path, prefix)
            assert (await call(method, path, prefix=f"/r/r1/{SECRET}"))[0] == 401
            assert (await call(method, path, prefix=f"/r/r1/{issued(Scope.RUNNER)}"))[0] == 403
        assert bench.llm.requests == []


async def test_an_agents_key_is_not_steered_by_baggage(serve: Serve) -> None:
    named = f"agl.rollout.id=r2,agl.attempt.id={'x'}"
    async with walk(serve) as (bench, call):
        headers = {"baggage": named.replace("=x", f"={bench.attempt('r2')}")}
        assert (await call("POST", "/v1/chat/completions", key=bench.key(), headers=headers))[0] == 200
        assert (await call("POST", "/v1/chat/completions", headers=headers))[0] == 401
        assert [span.rollout_id for span in await bench.spans()] == ["r1"]


@pytest.mark.parametrize("scope", [Scope.RUNNER, Scope.TRAINER, Scope.ADMIN])
async def test_baggage_or_a_url_names_the_attempt_beside_a_key_that_may_say_so(
    serve: Serve, scope: Scope
) -> None:
    key = SECRET if scope is Scope.ADMIN else issued(scope)
    async with walk(serve) as (bench, call):
        baggage = f"other=1, agl.rollout.id=r%2F1;p=1 , agl.attempt.id={bench.attempt('r/1')}"
        path = "/v1/chat/completions"
        assert (await call("POST", path, key=key, headers={"baggage": baggage}))[0] == 200
        assert (
            await call("POST", path, key=key, prefix=f"/r/r1/{bench.attempt()}", headers={"baggage": baggage})
        )[0] == 200
        for wrong in (
            f"agl.rollout.id=r1,agl.attempt.id={bench.attempt('r2')}",
            "agl.rollout.id=no,agl.attempt.id=no",
        ):
            assert (await call("POST", path, key=key, headers={"baggage": wrong}))[0] == 403
        spans = await bench.spans()
    assert [(span.rollout_id, span.attempt_id) for span in spans] == [
        ("r/1", bench.attempt("r/1")),
        ("r1", bench.attempt()),
    ]


async def test_a_call_that_belongs_to_no_attempt_is_refused_with_the_reason(serve: Serve) -> None:
    async with walk(serve) as (bench, call):
        for key in (SECRET, issued(Scope.RUNNER)):
            status, body = await call("POST", "/v1/chat/completions", key=key)
            assert (status, body["error"]["code"]) == (403, "no_attempt")
            assert "--observe" in body["error"]["message"]
            assert SECRET not in str(body)
            assert (await call("POST", "/v1/messages/count_tokens", key=key))[0] == 403
            assert (await call("GET", "/v1/models", key=key))[0] == 200
        assert bench.llm.requests == []
    async with walk(serve, observe=True) as (bench, call):  # only the server's own key is a live client's
        assert (await call("POST", "/v1/chat/completions", key=issued(Scope.RUNNER)))[0] == 403
        assert bench.llm.requests == []


async def test_a_key_made_by_the_server_is_good_for_its_attempt_until_that_ends(serve: Serve) -> None:
    async with walk(serve) as (bench, call):
        attempt = bench.leases["r1"].attempt
        key = issued(Scope.AGENT, rollout_id="r1", attempt_id=attempt.id)
        assert (await call("POST", "/v1/chat/completions", key=key))[0] == 200
        (span,) = await bench.spans()
        assert (span.attempt_id, span.late) == (attempt.id, False)
        await bench.store.rollouts.finish(attempt.id, token=attempt.token)
        assert (await call("POST", "/v1/chat/completions", key=key))[0] == 200  # late: it was on its way
        assert (await call("POST", "/v1/chat/completions", key=key))[0] == 401
        other = bench.leases["r2"].attempt
        await bench.store.rollouts.finish(other.id, token=other.token)
        key = issued(Scope.AGENT, rollout_id="r2", attempt_id=other.id)
        assert (await call("POST", "/v1/chat/completions", key=key))[0] == 401


async def test_a_key_that_was_good_is_refused_once_it_has_expired() -> None:
    now = [100.0]
    attribution = Attribution(
        keys=KeyRing(SECRET, clock=lambda: now[0]),
        store=MemoryStore(),
        observe=False,
        everybody=False,
        ttl_s=10,
        clock=lambda: now[0],
    )
    grant = AttemptGrant(rollout_id="r", attempt_id="a", token=3, mode=Mode.VAL, seed=2**62, models=("m",))
    headers = [(b"x-api-key", attribution.issue(grant).encode())]
    exchange = Exchange({"headers": headers}, receive=AsyncMock(), send=AsyncMock(), alarms=Alarms())
    for _ in range(2):
        assert (await attribution.caller(Route(endpoint="call"), exchange)).grant == grant
    now[0] = 110.0
    with pytest.raises(ApiError, match="expired"):
        await attribution.caller(Route(endpoint="call"), exchange)


async def test_keys_outlive_a_restart_when_the_secret_is_given(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_KEY", SECRET)
    keys = []
    for _ in range(2):
        async with serve() as bench:
            keys.append(bench.key(seed=5, mode=Mode.VAL, models=("m",)))
            async with bench.sdk(keys[0]) as sdk:
                assert [model.id async for model in sdk.models.list()] == ["m"]
    monkeypatch.delenv("AGL_KEY")
    async with serve() as bench, bench.sdk(keys[0]) as sdk:
        with pytest.raises(Exception, match="not issued by this server"):
            await sdk.models.list()
