"""Both backends of core keep the store's contract."""

from __future__ import annotations

from pathlib import Path

from agentlightning.store import Limits, MemoryStore, SqliteStore, Store
from agentlightning.testing import ManualClock, StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return MemoryStore(clock=clock)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return MemoryStore(clock=clock, limits=limits)


class TestSqliteStore(StoreContract):
    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return SqliteStore(folder / "store.db", clock=clock)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return SqliteStore(folder / "store.db", clock=clock, limits=limits)


class TestDurableSqliteStore(StoreContract):
    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return SqliteStore(folder / "store.db", durability="full", clock=clock)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return SqliteStore(folder / "store.db", durability="full", clock=clock, limits=limits)
