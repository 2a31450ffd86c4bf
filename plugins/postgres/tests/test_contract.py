"""The PostgreSQL store keeps the contract of all stores."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from agentlightning.store import Limits, Store
from agentlightning.testing import ManualClock, StoreContract
from lightning_plugin_postgres import PostgresStore
from lightning_plugin_postgres.testing import PostgresServer


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def at(self, server: PostgresServer) -> None:
        self.server = server

    def make_store(self, folder: Path, *, clock: ManualClock) -> Store:
        return PostgresStore(self.url(), clock=clock)

    def make_limited_store(self, folder: Path, *, clock: ManualClock, limits: Limits) -> Store:
        return PostgresStore(self.url(), clock=clock, limits=limits)

    def url(self) -> str:
        return self.server.url(schema=f"test_{secrets.token_hex(6)}")
