"""The watch: looks for what other servers did, while somebody waits for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from agentlightning.store.backend import SWEEP_INTERVAL_S, Changes, Notifier
from lightning_plugin_postgres._pipe import Pipe

_INTERVAL_S: Final = 0.025  # while somebody waits; drawn by ±60 %
_MOST_WOKEN: Final = 64  # of those who wait for one run's work, at once
_LOOK: Final = (
    "SELECT extract(epoch FROM clock_timestamp())::float8,"
    " (SELECT min(due_at) FROM attempts WHERE due_at IS NOT NULL),"
    " (SELECT max(completion) FROM rollouts WHERE completion IS NOT NULL)"
)
# walks from run to run along the index, however many rollouts of each are queued
_QUEUED: Final = f"""
WITH RECURSIVE of (run_id) AS (
    (SELECT run_id FROM rollouts WHERE status = 'queued' AND run_id IS NOT NULL ORDER BY run_id LIMIT 1)
    UNION ALL
    SELECT (SELECT rollouts.run_id FROM rollouts WHERE status = 'queued' AND rollouts.run_id > of.run_id
        ORDER BY rollouts.run_id LIMIT 1)
    FROM of WHERE of.run_id IS NOT NULL
)
SELECT run_id, (SELECT count(*) FROM (
    SELECT 1 FROM rollouts WHERE status = 'queued' AND rollouts.run_id = of.run_id LIMIT {_MOST_WOKEN}) AS found)
FROM of WHERE run_id IS NOT NULL
UNION ALL
SELECT NULL, count(*) FROM (
    SELECT 1 FROM rollouts WHERE status = 'queued' AND run_id IS NULL LIMIT {_MOST_WOKEN}) AS found
"""  # noqa: S608 - a constant


class Watch:
    """Remembers what it has seen.

    Attributes:
        at: When to look next, by the monotonic clock.
    """

    def __init__(self, notifier: Notifier) -> None:
        self.at = 0.0
        self._notifier = notifier
        self._completion = 0

    def look(self, pipe: Pipe, clock: Callable[[], float] | None) -> bool:
        """Wakes those who wait for what there is now; whether an attempt is overdue."""
        look = pipe.send(_LOOK)
        queue = pipe.send(_QUEUED) if self._notifier.has_waiters() else None
        pipe.settle()
        ((now, due_at, completion),) = look.rows()
        if queue is not None:
            rows = queue.rows()
            queued = {run_id: count for run_id, count in rows if count}
            changes = Changes(queued=queued, completed=(completion or 0) > self._completion)
            self._completion = completion or 0
            if changes:
                self._notifier.notify(changes)
        return due_at is not None and bool(due_at <= (now if clock is None else clock()))

    def rest(self) -> None:
        """Looks again after a while, drawn so that servers take turns."""
        if self._notifier.has_waiters():
            self.at = time.monotonic() + _INTERVAL_S * random.uniform(0.4, 1.6)
        else:
            self.at = time.monotonic() + SWEEP_INTERVAL_S * random.uniform(0.75, 1.25)
