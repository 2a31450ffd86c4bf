"""A store behind a server keeps the contract of every store: client, HTTP, server and backend together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlightning.store import Limits, MemoryStore, SqliteStore, Store
from agentlightning.testing import ManualClock, StoreContract
from lightning_plugin_server import HttpStore
from lightning_plugin_server.testing import RunningServer, running_server


class ServedStore(HttpStore):
    """A client that brings its server along."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._serving = running_server(store)
        self._server: RunningServer = self._serving.__enter__()
        key = folder / "server.key"
        key.touch(mode=0o600)
        key.write_text(self._server.key)
        super().__init__(f"{self._server.url}?key_file={key}")

    def end(self) -> None:
        self._serving.__exit__(None, None, None)


class ServedContract(StoreContract):
    """Ends the servers that a test started."""

    started: list[ServedStore]

    @pytest.fixture(autouse=True)
    def _servers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.delenv("AGL_KEY", raising=False)
        self.started = []
        yield
        for store in self.started:
            store.end()

    def served(self, store: Store, folder: Path) -> Store:
        self.started.append(ServedStore(store, folder))
        return self.started[-1]


class TestServedMemoryStore(ServedContract):
    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return self.served(MemoryStore(clock=clock), folder)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return self.served(MemoryStore(clock=clock, limits=limits), folder)


class TestServedSqliteStore(ServedContract):
    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return self.served(SqliteStore(folder / "store.db", clock=clock), folder)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return self.served(SqliteStore(folder / "store.db", clock=clock, limits=limits), folder)
