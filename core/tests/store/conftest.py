"""What the tests of broken stores share."""

from __future__ import annotations

import asyncio

import pytest

from agentlightning.testing._store_faults import calls_by_test


@pytest.fixture(scope="session")
def contract_calls() -> dict[str, set[str]]:
    """What each contract test of stores calls."""
    return asyncio.run(calls_by_test())
