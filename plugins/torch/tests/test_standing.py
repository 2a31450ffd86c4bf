"""What the garbage collector is spared while the engine answers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from agentlightning.engine import Backend
from lightning_plugin_torch._standing import StandingHeap

Starter = Callable[..., Awaitable[Backend]]


class Cycle:
    """Only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Engines that other tests share hold too, and begin with nothing frozen here."""
    callbacks = list(gc.callbacks)
    gc.callbacks.clear()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.callbacks[:] = callbacks


def test_what_a_full_collection_has_found_alive_is_spared_until_the_end() -> None:
    alive = Cycle()
    gone = weakref.ref(alive)
    heap = StandingHeap()
    heap.hold()
    heap.hold()
    gc.collect(1)
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gc.get_freeze_count() > 0
    del alive
    gc.collect()
    assert gone() is not None
    heap.release()
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == []


def test_what_was_dead_before_and_what_dies_young_is_freed() -> None:
    before = weakref.ref(Cycle())
    heap = StandingHeap()
    heap.hold()
    gc.collect()
    later = weakref.ref(Cycle())
    gc.collect()
    assert (before(), later()) == (None, None)
    heap.release()


def test_what_the_process_has_frozen_itself_stays_frozen() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    heap = StandingHeap()
    heap.hold()
    gc.collect()
    assert gc.get_freeze_count() == count
    heap.release()
    assert gc.get_freeze_count() == count


def test_releasing_what_does_not_hold_does_nothing() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    StandingHeap().release()
    assert gc.get_freeze_count() == count


async def test_an_engine_holds_from_its_first_answer_until_it_stops(start: Starter) -> None:
    backend = await start()
    gc.collect()
    assert gc.get_freeze_count() == 0
    await backend.engine.chat({"messages": [{"role": "user", "content": "2 + 3?"}], "max_tokens": 1})
    gc.collect()
    assert gc.get_freeze_count() > 0
    await backend.engine.stop()
    assert gc.get_freeze_count() == 0
