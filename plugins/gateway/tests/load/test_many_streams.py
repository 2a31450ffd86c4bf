"""Many streams at once, and clients that leave them: nothing is lost, whoever stays or goes."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import cycle
from typing import Any

import pytest

from agentlightning.types import Span

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Recorded = Callable[[list[Span]], Counter[str]]
Tokens = Callable[[int], list[int]]
CALLERS = 8
TOKEN = re.compile(rb'"content":"t(\d+) "')


@pytest.mark.parametrize("streams", [100, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_every_one_of_many_streams_at_once_comes_to_its_end_and_is_recorded(
    under_load: Serve, recorded: Recorded, tokens_of: Tokens, streams: int
) -> None:
    async with under_load() as load:
        keys = cycle(await load.begin(CALLERS))
        load.upstream.hold_until(streams)
        calls = (load.call(number, key) for number, key in zip(range(streams), keys, strict=False))
        answers = await asyncio.gather(*calls)
        for number, answer in enumerate(answers):
            assert [int(token) for token in TOKEN.findall(answer)] == tokens_of(number)
            assert answer.count(b"data: [DONE]") == 1
        spans = await load.end()
        assert recorded(spans) == {"whole": streams}
        kept = sorted(tuple(span.tokens[0].response_ids) for span in spans)
        assert kept == [tuple(tokens_of(number)) for number in range(streams)]


@pytest.mark.parametrize("calls", [200, pytest.param(2_000, marks=pytest.mark.slow)])
async def test_every_call_is_recorded_although_clients_leave_at_any_point(
    under_load: Serve, recorded: Recorded, tokens_of: Tokens, calls: int
) -> None:
    draw = random.Random(4)
    async with under_load() as load:
        keys = await load.begin(CALLERS)
        left = iter(range(calls))
        stayed = 0

        async def work(key: str) -> None:
            nonlocal stayed
            for number in left:
                stream = draw.random() < 0.7
                leaves = draw.random() < 0.6
                after = draw.randrange(len(tokens_of(number))) if leaves and stream else 0 if leaves else None
                answer = await load.call(number, key, stream=stream, leave_after=after)
                if after is None:
                    stayed += 1
                    assert answer.startswith(b"HTTP/1.1 200")

        await asyncio.gather(*(work(key) for key in keys * 4))
        found = recorded(await load.end())
        assert found.total() == calls
        assert found.keys() <= {"whole", "cancelled"}
        assert found["whole"] >= stayed
        await asyncio.wait_for(load.upstream.idle.wait(), 10)


async def test_streams_that_everybody_has_left_are_recorded_as_far_as_they_came(
    under_load: Serve, recorded: Recorded, tokens_of: Tokens
) -> None:
    streams = 100
    async with under_load() as load:
        keys = cycle(await load.begin(CALLERS))
        load.upstream.hold_until(streams + 1)  # none gets further than its first token
        calls = (
            load.call(number, key, leave_after=1) for number, key in zip(range(streams), keys, strict=False)
        )
        await asyncio.gather(*calls)
        spans = await load.end()
        assert recorded(spans) == {"cancelled": streams}
        firsts = sorted(tuple(span.tokens[0].response_ids) for span in spans)
        assert firsts == [tuple(tokens_of(number)[:1]) for number in range(streams)]
        await asyncio.wait_for(load.upstream.idle.wait(), 10)
