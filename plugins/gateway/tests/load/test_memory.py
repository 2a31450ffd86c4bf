"""Memory under load: what is kept of a call ends with its attempt, and what an attempt keeps is bounded."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Traced = Callable[[], int]

CALLERS = 8
MOST_A_CALL_BYTES = 1_500
"""That may stay of a call that is over: far less than its answer of some 2 KB, prompt and record beside it."""
MOST_A_STREAM_BYTES = 100_000
"""That a call in flight may take: three connections with their buffers, its client and its upstream included."""


@pytest.fixture
def traced() -> Iterator[Traced]:
    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield held
    tracemalloc.stop()


async def wave(load: Any, *, start: int, calls: int) -> None:
    """Calls of new attempts, some at once; checks that all were recorded."""
    keys = await load.begin(CALLERS)
    left = iter(range(start, start + calls))

    async def work(key: str) -> None:
        for number in left:
            await load.call(number, key, stream=bool(number % 2))

    await asyncio.gather(*(work(key) for key in keys))
    load.upstream.arrived.clear()
    assert len(await load.end()) == calls


@pytest.mark.parametrize("calls", [300, pytest.param(1_500, marks=pytest.mark.slow)])
async def test_memory_does_not_grow_with_the_number_of_calls(
    under_load: Serve, traced: Traced, calls: int
) -> None:
    async with under_load() as load:
        await wave(load, start=0, calls=calls)
        before = traced()
        await wave(load, start=calls, calls=calls)
        await wave(load, start=2 * calls, calls=calls)
        growth = traced() - before
    assert growth / (2 * calls) < MOST_A_CALL_BYTES


async def test_memory_does_not_grow_with_the_calls_of_one_attempt(under_load: Serve, traced: Traced) -> None:
    async with under_load() as load:
        (key,) = await load.begin(1)
        numbers = iter(range(10_000))

        async def calls(count: int) -> None:
            for _ in range(count):
                number = next(numbers)
                await load.call(number, key, stream=bool(number % 2))
            load.upstream.arrived.clear()

        await calls(150)
        before = traced()
        await calls(300)
        growth = traced() - before
        assert growth / 300 < MOST_A_CALL_BYTES
        assert len(await load.end()) == 450


@pytest.mark.parametrize("streams", [100, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_a_stream_in_flight_takes_little_memory(
    under_load: Serve, traced: Traced, streams: int
) -> None:
    async with under_load() as load:
        await wave(load, start=0, calls=2 * CALLERS)
        keys = await load.begin(CALLERS)
        before = traced()
        load.upstream.hold_until(streams + 1)
        waiting = [
            asyncio.create_task(load.call(number, keys[number % CALLERS])) for number in range(streams)
        ]
        await asyncio.gather(*(load.upstream.expect(number).wait() for number in range(streams)))
        growth = traced() - before
        load.upstream.let_go()
        await asyncio.gather(*waiting)
        assert len(await load.end()) == streams
    assert growth / streams < MOST_A_STREAM_BYTES
