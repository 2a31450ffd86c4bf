"""Timers that share a timer of the loop go off like any other, a little late."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable

import pytest

from lightning_plugin_gateway._alarms import Alarms


class FastClock(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock goes ahead instead.

    Attributes:
        turns: How often it has looked for what is due.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self.turns = 0
        super().__init__(_Eager(self))

    def time(self) -> float:
        return self._now

    def skip(self, wait_s: float) -> None:
        self._now += wait_s
        self.turns += 1


class _Eager(selectors.SelectSelector):
    def __init__(self, loop: FastClock) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.skip(timeout or 0.0)
        return super().select(0)


def fast(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a test in a loop whose clock does not wait."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        async def main() -> None:
            await test(fast_clock=asyncio.get_running_loop(), **arguments)

        with asyncio.Runner(loop_factory=FastClock) as runner:
            runner.run(main())

    del run.__wrapped__  # type: ignore[attr-defined]  # its fixtures are not pytest's
    return run


@fast
async def test_timers_go_off_in_their_time_and_not_when_cancelled(fast_clock: FastClock) -> None:
    alarms, rung = Alarms(), []
    begun = fast_clock.time()
    for wait_s in (0.05, 2.0, 3.0, 60.0):
        alarms.at(begun + wait_s, lambda wait_s=wait_s: rung.append((wait_s, fast_clock.time() - begun)))
    alarms.at(begun + 2.5, lambda: rung.append((2.5, 0.0))).cancel()
    alarms.at_next_tick(lambda: rung.append((0.1, fast_clock.time() - begun)))
    await asyncio.sleep(61.0)
    assert [wait_s for wait_s, _ in rung] == [0.05, 0.1, 2.0, 3.0, 60.0]
    assert all(-1e-6 <= at - wait_s <= 0.11 for wait_s, at in rung)


@fast
async def test_an_idle_loop_is_left_in_peace(fast_clock: FastClock) -> None:
    alarms = Alarms()
    alarms.at(fast_clock.time() + 5.0, lambda: None).cancel()
    await asyncio.sleep(0.2)
    turns = fast_clock.turns
    await asyncio.sleep(100.0)
    assert fast_clock.turns - turns < 5


@pytest.mark.parametrize("limit_s", [0.05, 5.0])
def test_a_block_that_takes_too_long_is_ended(limit_s: float) -> None:
    fast(_limited)(limit_s=limit_s)


async def _limited(limit_s: float, fast_clock: FastClock) -> None:
    alarms = Alarms()
    with pytest.raises(TimeoutError), alarms.timeout(fast_clock.time() + limit_s):
        await asyncio.sleep(100.0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    with alarms.timeout(fast_clock.time() + limit_s):
        await asyncio.sleep(limit_s / 2)
    await asyncio.sleep(limit_s * 2)  # nothing is left that would cancel it


@fast
async def test_the_inner_of_two_limits_is_the_one_that_ends_a_block(fast_clock: FastClock) -> None:
    alarms = Alarms()
    with alarms.timeout(fast_clock.time() + 50.0):
        with pytest.raises(TimeoutError), alarms.timeout(fast_clock.time() + 2.0):
            await asyncio.sleep(10.0)
        assert fast_clock.time() < 1050.0


@fast
async def test_a_cancellation_by_somebody_else_stays_one(fast_clock: FastClock) -> None:
    alarms = Alarms()

    async def work() -> None:
        with alarms.timeout(fast_clock.time() + 50.0):
            await asyncio.sleep(100.0)

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@fast
async def test_a_limit_and_a_cancellation_at_once_are_a_cancellation(fast_clock: FastClock) -> None:
    alarms = Alarms()

    async def work() -> None:
        with alarms.timeout(fast_clock.time() + 0.5):
            await asyncio.sleep(100.0)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    fast_clock.call_at(fast_clock.time() + 0.5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_new_loop_takes_over_from_one_that_was_closed() -> None:
    alarms = Alarms()
    rang: list[str] = []

    async def wait(name: str, *, wait_s: float) -> None:
        alarms.at(asyncio.get_running_loop().time() + 3.0, lambda: rang.append(name))
        await asyncio.sleep(wait_s)

    for name, wait_s in (("first", 0.0), ("second", 4.0)):
        with asyncio.Runner(loop_factory=FastClock) as runner:
            runner.run(wait(name, wait_s=wait_s))
    assert rang == ["second"]
