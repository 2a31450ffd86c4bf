"""`StoreContract`: what every store backend promises, as tests to subclass."""

from __future__ import annotations

from agentlightning.testing._store_lifecycle_contract import LifecycleContract
from agentlightning.testing._store_load_contract import LoadContract
from agentlightning.testing._store_log_contract import ResourceContract, SpanContract
from agentlightning.testing._store_queue_contract import QueueContract
from agentlightning.testing._store_run_contract import RunContract
from agentlightning.testing._store_whole_contract import WholeContract


class StoreContract(
    QueueContract, LifecycleContract, SpanContract, ResourceContract, RunContract, WholeContract, LoadContract
):
    """Every promise of the store's protocols.

    Subclass it in a test module, and say how an empty store is made; pytest and pytest-asyncio (in auto mode, or
    with `pytestmark = pytest.mark.asyncio`) do the rest. A promise that a backend cannot keep yet is overridden with
    `pytest.mark.xfail(strict=True, reason=…)`.

    Example:
        class TestMyStore(StoreContract):
            def make_store(self, folder, *, clock):
                return MyStore(folder / "file", clock=clock)
    """
