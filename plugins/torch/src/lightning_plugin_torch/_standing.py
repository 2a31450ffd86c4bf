"""Spares the garbage collector the objects that stay: those of torch and its neighbours are some half a million."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from typing import Final

_FULL: Final = 2  # the oldest generation, with which all are collected


class StandingHeap:
    """While it holds, what the next full collection has found alive is not looked at again.

    Later ones look only at what is newer; otherwise the thousands of objects that each update makes and drops have all
    modules looked at once or twice. As a collection comes before, nothing dead is kept. A process that has frozen
    objects itself is left alone. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._frozen = False

    def hold(self) -> None:
        """Begins; does nothing if it holds."""
        if self._held:
            return
        with self._lock:
            if not self._held:
                self._held = True
                gc.callbacks.append(self._collected)

    def release(self) -> None:
        """Ends: everything is looked at again. Does nothing if it does not hold."""
        with self._lock:
            if self._held:
                gc.callbacks.remove(self._collected)
            if self._frozen:
                gc.unfreeze()
            self._held = self._frozen = False

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        # without the lock: a collection may begin while it is taken
        if phase == "stop" and info["generation"] == _FULL and not self._frozen and not gc.get_freeze_count():
            gc.freeze()
            self._frozen = True
