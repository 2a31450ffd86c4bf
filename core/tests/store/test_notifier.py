"""As many waiters are woken as there is work, the right ones, and no wake-up is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agentlightning.store._notifier import Notifier, Topic
from agentlightning.store._unit import Changes


def waiting(notifier: Notifier, *, run_id: str | None = None) -> asyncio.Task[None]:
    ticket = notifier.ticket(Topic.QUEUED)
    return asyncio.create_task(notifier.wait(Topic.QUEUED, ticket, 60.0, run_id=run_id))


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_rollouts_wake_the_two_who_have_waited_longest() -> None:
    notifier = Notifier()
    herd = [waiting(notifier) for _ in range(32)]
    await asyncio.sleep(0)
    notifier.notify(Changes(queued={None: 2}))
    await asyncio.gather(*herd[:2])
    await asyncio.sleep(0)
    assert [task.done() for task in herd] == [True] * 2 + [False] * 30
    notifier.notify(Changes(queued={"a": 20, None: 30}))
    await asyncio.gather(*herd)


async def test_work_of_a_run_wakes_only_those_who_may_take_it() -> None:
    notifier = Notifier()
    other, mine, anybody = waiting(notifier, run_id="b"), waiting(notifier, run_id="a"), waiting(notifier)
    await asyncio.sleep(0)
    notifier.notify(Changes(queued={"a": 2}))
    await asyncio.gather(mine, anybody)
    assert not other.done()
    await stop(other)


async def test_a_wake_up_that_finds_its_waiter_cancelled_goes_to_the_next() -> None:
    notifier = Notifier()
    first, second = waiting(notifier), waiting(notifier)
    await asyncio.sleep(0)
    notifier.notify(Changes(queued={None: 1}))
    first.cancel()  # woken, and gone before it could look
    await asyncio.wait_for(second, 20.0)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_wake_up_for_a_loop_that_is_closed_goes_to_the_next() -> None:
    notifier = Notifier()
    entered = threading.Event()

    def leave_a_waiter_behind() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(notifier.wait(Topic.QUEUED, notifier.ticket(Topic.QUEUED), None))
        loop.run_until_complete(asyncio.sleep(0))
        future = next(iter(notifier._hungry))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        notifier._hungry[future] = None  # as if the loop had been closed without cancelling it
        loop.close()
        entered.set()

    await asyncio.to_thread(leave_a_waiter_behind)
    assert entered.is_set()
    alive = waiting(notifier)
    await asyncio.sleep(0)
    notifier.notify(Changes(queued={None: 1}))
    await asyncio.wait_for(alive, 20.0)


async def test_a_change_between_the_look_and_the_wait_is_not_missed() -> None:
    notifier = Notifier()
    ticket = notifier.ticket(Topic.QUEUED)
    notifier.notify(Changes(queued={None: 1}))
    await asyncio.wait_for(notifier.wait(Topic.QUEUED, ticket, None), 20.0)


async def test_completions_wake_all_who_wait_for_one() -> None:
    notifier = Notifier()
    ticket = notifier.ticket(Topic.COMPLETED)
    curious = [asyncio.create_task(notifier.wait(Topic.COMPLETED, ticket, 60.0)) for _ in range(3)]
    hungry = waiting(notifier)
    await asyncio.sleep(0)
    notifier.notify(Changes(completed=True))
    await asyncio.gather(*curious)
    assert not hungry.done()
    await stop(hungry)
    assert not notifier.has_waiters()
