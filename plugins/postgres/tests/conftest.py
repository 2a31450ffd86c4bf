"""One PostgreSQL server for all tests, and a schema of its own for each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from lightning_plugin_postgres.testing import PostgresServer, find_binaries


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    if find_binaries() is None:
        pytest.skip("there are no PostgreSQL binaries here (on Debian: apt-get install postgresql)")
    with PostgresServer() as running:
        yield running


@pytest.fixture
def url(server: PostgresServer) -> str:
    """An empty store."""
    return server.url(schema=new_schema())


def new_schema() -> str:
    return f"test_{secrets.token_hex(6)}"
