"""A store in this process, behind a server, behind a proxy that breaks connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agentlightning.store import MemoryStore, Store
from agentlightning.testing import FaultProxy
from lightning_plugin_server import HttpStore
from lightning_plugin_server.testing import RunningServer, running_server

Client = Callable[..., HttpStore]


@pytest.fixture
def inside() -> Store:
    """The store behind the server, to look at what calls came to."""
    return MemoryStore()


@pytest.fixture
def running(inside: Store) -> Iterator[RunningServer]:
    with running_server(inside) as server:
        yield server


@pytest.fixture
def proxy(running: RunningServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", int(running.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def client(tmp_path: Path, running: RunningServer) -> Client:
    """Makes clients that have the server's key, of a URL."""

    def make(url: str, **parameters: object) -> HttpStore:
        key = tmp_path / "key"
        key.touch(mode=0o600)
        key.write_text(running.key)
        settings = "".join(f"&{name}={value}" for name, value in parameters.items())
        return HttpStore(f"{url}?key_file={key}{settings}")

    return make


@pytest.fixture
async def store(client: Client, proxy: FaultProxy) -> AsyncIterator[HttpStore]:
    """A client of the server, through the proxy."""
    async with client(proxy.url) as store:
        yield store
