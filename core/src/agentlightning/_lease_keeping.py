"""Keeps the leases of work that is being done, each by itself: a slow call delays no other."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from agentlightning.errors import AglError, LeaseLost, NotFound
from agentlightning.store import RolloutStore
from agentlightning.types import Attempt

_log = logging.getLogger("agentlightning.runner")
_AT_ONCE: Final = 32  # calls in flight


class LeaseKeeper:
    """Sends heartbeats.

    Args:
        rollouts: Where the leases were taken.
        ttl_s: How long a heartbeat lasts, in seconds.
    """

    def __init__(self, rollouts: RolloutStore, *, ttl_s: float) -> None:
        self._rollouts = rollouts
        self._ttl_s = ttl_s
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def keep(self, attempt: Attempt, work: asyncio.Task[None]) -> None:
        """Keeps the lease of an attempt until cancelled, or until it is lost: then its work is cancelled.

        It is lost when the store says so, when the rollout was cancelled, and when no heartbeat came through for so
        long that it must have run out.
        """
        until = time.monotonic() + self._ttl_s
        pause_s = self._ttl_s / 3
        while True:
            await asyncio.sleep(pause_s)
            sent_at = time.monotonic()
            try:
                async with self._slots, asyncio.timeout(self._ttl_s / 3):
                    beat = await self._rollouts.heartbeat(attempt.id, token=attempt.token, ttl_s=self._ttl_s)
            except (LeaseLost, NotFound) as error:
                _log.info("the work on attempt %s ends: %s", attempt.id, error)
                work.cancel("the lease was lost")
                return
            except (AglError, TimeoutError) as error:
                reason = str(error) or "the store does not answer"
                if time.monotonic() >= until:
                    _log.warning("the lease of attempt %s has run out: %s", attempt.id, reason)
                    work.cancel("the lease ran out")
                    return
                _log.warning("heartbeat of attempt %s failed, trying again: %s", attempt.id, reason)
                pause_s = self._ttl_s / 10
            else:
                if beat.cancelled:
                    work.cancel("the rollout was cancelled")
                    return
                until, pause_s = sent_at + self._ttl_s, self._ttl_s / 3
