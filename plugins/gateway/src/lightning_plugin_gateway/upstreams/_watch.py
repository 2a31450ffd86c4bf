"""Closes an answer that is late: nothing is set up or taken down for each part of it."""

from __future__ import annotations

import asyncio

import aiohttp

from lightning_plugin_gateway.upstreams._faults import UpstreamFault, late, silent


class Watch:
    """Watches one response while its next part is awaited, by the clock of the event loop.

    Attributes:
        fault: Why it was closed; None if it was not closed here.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, *, silence_s: float, begin_by: float, deadline: float
    ) -> None:
        """Begins to watch.

        Args:
            response: What is closed.
            silence_s: Longest time without a part in seconds, once there was one.
            begin_by: When its first part must have come.
            deadline: When its last part must have come.
        """
        self._response = response
        self._silence_s = silence_s
        self._begin_by: float | None = begin_by
        self._deadline = deadline
        self._awaited: float | None = None
        self.fault: UpstreamFault | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The next part is awaited from now on."""
        self._awaited = self._loop.time()
        if self._timer is None:
            self._set(self._due(self._awaited))

    def heard(self) -> None:
        """It has come; until the next `begin` nobody is late but by the deadline."""
        self._awaited = None
        if self._begin_by is not None:  # from here on less patience is due than the timer was set for
            self._begin_by = None
            self.stop()

    def stop(self) -> None:
        """Ends watching."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _due(self, awaited: float) -> float:
        quiet = awaited + self._silence_s if self._begin_by is None else self._begin_by
        return min(quiet, self._deadline)

    def _set(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        due = self._deadline if self._awaited is None else self._due(self._awaited)
        if self._awaited is None and now < due:  # it is the client that is slow
            self._set(min(now + self._silence_s, due))
        elif now < due:
            self._set(due)
        else:
            self.fault = late() if now >= self._deadline else silent(self._silence_s)
            self._response.close()
