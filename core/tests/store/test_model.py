"""Random operations on both backends of core and on a model of them: they never differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from agentlightning.store import AppendResult, MemoryStore, SqliteStore, Store
from agentlightning.testing import ManualClock, StoreMachine


class MemoryMachine(StoreMachine):
    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        return MemoryStore(clock=clock)


class SqliteMachine(StoreMachine):
    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        return SqliteStore(folder / "store.db", clock=clock)


TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


class DroppingMachine(StoreMachine):
    """Its store drops the last span of each call, and says that it did not."""

    def make_store(self, folder: Path, clock: ManualClock) -> Store:
        store = MemoryStore(clock=clock)
        append = store.spans.append

        async def dropping(spans: list[object], **options: object) -> AppendResult:
            return await append(spans[:-1], **options)

        store.spans.append = dropping
        return store


def test_a_store_that_drops_spans_is_found_out() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            DroppingMachine,
            settings=settings(
                max_examples=60,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],  # any example will do
            ),
        )
