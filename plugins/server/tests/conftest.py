"""A running server, and a plain client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from agentlightning.store import MemoryStore
from lightning_plugin_server.testing import RunningServer, running_server


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and spools of each test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AGL_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server(MemoryStore()) as running:
        yield running


@pytest.fixture
async def http(server: RunningServer) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that holds no key."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session
