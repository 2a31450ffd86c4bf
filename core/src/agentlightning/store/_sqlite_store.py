"""`sqlite:///FILE`: the store on disk, the default."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from agentlightning.store._backed import BackedStore
from agentlightning.store._limits import Limits
from agentlightning.store._notifier import Notifier
from agentlightning.store._sqlite_executor import SqliteExecutor
from agentlightning.store._sqlite_file import PATIENCE_S, Durability

DURABILITIES: tuple[Durability, ...] = get_args(Durability)


class SqliteStore(BackedStore):
    """A store in one file, which any number of processes may open.

    What was acknowledged survives the death of any process; with durability `full` also a loss of power. A write waits
    up to `patience_s` for the lock of another process.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "normal",
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        limits: Limits | None = None,
    ) -> None:
        place = path.absolute()
        notifier = Notifier()
        executor = SqliteExecutor(
            place, notifier, durability=durability, patience_s=patience_s, clock=clock, new_id=new_id
        )
        query = "" if durability == "normal" else f"?durability={durability}"
        super().__init__(f"sqlite:///{place}{query}", executor=executor, notifier=notifier, limits=limits)
