"""Chat requests that bring the ids of their prompt."""

from __future__ import annotations

import pytest

from agentlightning.engine import Backend
from agentlightning.errors import ConfigError
from agentlightning.types import Json

MESSAGES: list[Json] = [{"role": "user", "content": "What is 2 + 3?"}]


def ask(**more: Json) -> dict[str, Json]:
    body = {"model": "policy", "messages": MESSAGES, "max_tokens": 12, "seed": 5, "temperature": 0}
    return {**body, "logprobs": True, "return_token_ids": True, **more}


async def test_ids_of_the_prompt_take_the_place_of_its_messages(backend: Backend) -> None:
    rendered = await backend.engine.chat(ask())
    ids = rendered["prompt_token_ids"]
    elsewhere: list[Json] = [{"role": "user", "content": "Something else"}]
    given = await backend.engine.chat(ask(messages=elsewhere, prompt_token_ids=ids))
    assert given["prompt_token_ids"] == ids
    assert given["choices"] == rendered["choices"]
    chunks = [chunk async for chunk in backend.engine.stream(ask(messages=elsewhere, prompt_token_ids=ids))]
    assert chunks[0]["prompt_token_ids"] == ids
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == rendered["choices"][0]["message"]["content"]


async def test_rendering_is_what_a_first_turn_is_sampled_after(backend: Backend, tools: list[Json]) -> None:
    for offered in ([], tools):
        answer = await backend.engine.chat(ask(tools=offered))
        ids = await backend.engine.render(MESSAGES, offered, add_generation_prompt=True)
        assert answer["prompt_token_ids"] == ids
        closed = await backend.engine.render(MESSAGES, offered, add_generation_prompt=False)
        assert ids[: len(closed)] == closed
    assert await backend.engine.decode(ids[len(closed) :]) == "<|assistant|>"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one id"),
        ([1, -1], "holds -1"),
        ([1, 10**6], "holds 1000000"),
        ([True, 2], "int"),
        ([1.0], "int"),
        ("12", "array"),
        ([1] * 200, "200 tokens"),
    ],
)
async def test_ids_that_cannot_be_a_prompt_are_refused(backend: Backend, ids: Json, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await backend.engine.chat(ask(prompt_token_ids=ids))
