"""How many answers may be under way or wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from agentlightning.errors import EngineError
from lightning_plugin_torch._answer import Answer


class Places:
    """Places for answers; safe to use from any thread. A place is free once its answer is settled or cancelled."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, answers: Sequence[Answer]) -> None:
        """Takes a place for each, or none.

        Raises:
            EngineError: There are not enough.
        """
        with self._lock:
            if self._taken + len(answers) > self._limit:
                raise EngineError(
                    f"{len(answers)} more answers were asked for, but {self._taken} are under way or wait and "
                    f"{self._limit} may; ask again later, or raise max_waiting of the engine"
                )
            self._taken += len(answers)
        for answer in answers:
            answer.done.add_done_callback(self._free)

    def _free(self, _: Future[Answer]) -> None:
        with self._lock:
            self._taken -= 1
