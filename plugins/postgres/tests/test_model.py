"""Random operations on the PostgreSQL store and on a model of it: they never differ."""

from __future__ import annotations

import secrets
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from agentlightning.store import Store
from agentlightning.testing import ManualClock, StoreMachine
from lightning_plugin_postgres import PostgresStore
from lightning_plugin_postgres.testing import PostgresServer


def test_the_store_and_its_model_never_differ(server: PostgresServer) -> None:
    class Machine(StoreMachine):
        def make_store(self, folder: Path, clock: ManualClock) -> Store:
            return PostgresStore(server.url(schema=f"test_{secrets.token_hex(6)}"), clock=clock, readers=1)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
