from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from unittest.mock import ANY

import aiohttp
import openai
import pytest

from agentlightning.gateway import GatewayConfig
from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]


async def get(url: str, **headers: str) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("path", ["/v1/models", "/r/r1/a1/v1/models"])
async def test_no_key_and_wrong_keys_are_refused_on_every_route(serve: Serve, path: str) -> None:
    async with serve() as bench:
        url = bench.gateway.base_url + path
        canary = "agl-" + "A" * 80
        answers = [
            await get(url),
            await get(url, Authorization="Bearer sk-canary"),
            await get(url, Authorization=f"Bearer {canary}"),
            await get(url, Authorization=bench.key()),
            await get(url, **{"x-api-key": canary}),
        ]
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                url.replace("models", "chat/completions"), json={"model": "m", "messages": HELLO}
            ) as response,
        ):
            answers.append((response.status, await response.json()))
        assert bench.llm.requests == []
        assert (await bench.spans()) == []
    assert [status for status, _ in answers] == [401] * 6
    assert all(body["error"]["code"] == "invalid_key" for _, body in answers)
    assert "canary" not in str(answers)
    assert canary not in str(answers)


async def test_only_health_is_open_and_everything_else_is_404_in_openais_form(serve: Serve) -> None:
    async with serve() as bench:
        assert await get(bench.gateway.base_url + "/healthz") == (200, {})
        for path in (
            "/",
            "/healthz/",
            "/v1",
            "/v1/chat/completions",
            "/docs",
            "/r/a/b/healthz",
            "/x/healthz",
            "//v1/models",
        ):
            status, body = await get(bench.gateway.base_url + path, Authorization=f"Bearer {bench.key()}")
            assert (status, body["error"]["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
async def test_the_key_is_taken_from_either_header(serve: Serve, header: str) -> None:
    async with serve() as bench:
        value = bench.key() if header == "x-api-key" else f"Bearer {bench.key()}"
        status, _ = await get(bench.gateway.base_url + "/v1/models", **{header: value})
    assert status == 200


async def test_a_url_alone_is_enough_when_it_holds_the_key(serve: Serve) -> None:
    async with serve() as bench:
        path = f"/r/r%2F1/{bench.key('r/1')}/v1"
        async with bench.sdk("sk-whatever", path=path) as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO)
            assert [model.id async for model in sdk.models.list()] == []  # `*` serves any name, and has none
        assert (await bench.spans())[0].rollout_id == "r/1"


async def test_a_url_that_names_an_attempt_must_agree_with_the_key(serve: Serve) -> None:
    async with serve() as bench:
        async with bench.sdk(path=f"/r/r1/{bench.attempt()}/v1") as sdk:
            await sdk.chat.completions.create(model="m", messages=HELLO)
        for path in (
            f"/r/r1/{bench.attempt('r2')}/v1",
            f"/r/r2/{bench.attempt()}/v1",
            f"/r/r2/{bench.key()}/v1",
        ):
            async with bench.sdk(path=path) as sdk:
                with pytest.raises(openai.PermissionDeniedError, match="another attempt"):
                    await sdk.chat.completions.create(model="m", messages=HELLO)
        assert len(await bench.spans()) == 1


async def test_an_expired_key_is_refused(serve: Serve) -> None:
    async with serve(config=GatewayConfig(key_ttl_s=0.0)) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.AuthenticationError, match="expired"):
            await sdk.chat.completions.create(model="m", messages=HELLO)


async def test_a_key_covers_the_models_of_its_grant(serve: Serve) -> None:
    async with serve() as bench, bench.sdk(bench.key(models=("m", "n"))) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["m", "n"]
        await sdk.chat.completions.create(model="n", messages=HELLO)
        with pytest.raises(openai.PermissionDeniedError, match="covers 'm', 'n'"):
            await sdk.chat.completions.create(model="other", messages=HELLO)
        assert [span.attributes.get("error.type") for span in (await bench.spans())] == [
            None,
            "model_not_allowed",
        ]


async def test_a_released_attempt_is_refused_after_its_calls_are_recorded(serve: Serve) -> None:
    async with serve([ScriptedAnswer(hold_after=0)]) as bench, bench.sdk(max_retries=2) as sdk:
        call = asyncio.create_task(sdk.chat.completions.create(model="m", messages=HELLO))
        await asyncio.to_thread(bench.llm.wait_held)
        release = asyncio.create_task(bench.gateway.release(bench.attempt()))
        while await get(bench.gateway.base_url + "/v1/models", Authorization=f"Bearer {bench.key()}") != (
            401,
            ANY,
        ):
            pass
        assert not release.done()
        bench.llm.let_go()
        await release
        assert len(await bench.spans()) == 1
        await call
        with pytest.raises(openai.AuthenticationError, match="has ended"):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        async with bench.sdk(bench.key("r2")) as other:
            await other.models.list()
