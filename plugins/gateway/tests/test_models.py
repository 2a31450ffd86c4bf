from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic
import openai
import pytest

from agentlightning.gateway import HttpUpstream

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HERE = HttpUpstream(base_url="http://127.0.0.1:1/v1")


async def test_models_are_listed_in_the_form_of_whoever_asks(serve: Serve) -> None:
    async with serve(upstreams={"org/small": HERE, "big": HERE}) as bench:
        async with bench.sdk() as sdk:
            assert [model.id async for model in sdk.models.list()] == ["org/small", "big"]
            found = await sdk.models.retrieve("org/small")
            assert (found.id, found.object) == ("org/small", "model")
            with pytest.raises(openai.NotFoundError, match="'org/small', 'big'"):
                await sdk.models.retrieve("other")
        async with anthropic.AsyncAnthropic(
            base_url=bench.gateway.base_url, api_key=bench.key(), max_retries=0
        ) as sdk:
            assert [(model.id, model.type) async for model in sdk.models.list()] == [
                ("org/small", "model"),
                ("big", "model"),
            ]
            assert (await sdk.models.retrieve("big")).display_name == "big"
            with pytest.raises(anthropic.NotFoundError) as caught:
                await sdk.models.retrieve("other")
    assert caught.value.body["error"]["type"] == "not_found_error"


async def test_a_key_lists_the_models_of_its_grant_only(serve: Serve) -> None:
    async with serve(upstreams={"a": HERE, "b": HERE}) as bench, bench.sdk(bench.key(models=("b",))) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["b"]
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("a")


async def test_a_model_for_every_name_is_listed_only_by_a_name_of_its_own(serve: Serve) -> None:
    for upstreams, listed in (
        ({"*": HERE}, []),
        ({"*": HttpUpstream(base_url=HERE.base_url, model="known")}, ["known"]),
        ({"*": HERE, "own": HERE}, ["own"]),
    ):
        async with serve(upstreams=upstreams) as bench, bench.sdk() as sdk:
            assert [model.id async for model in sdk.models.list()] == listed
