"""Closes an answer that is late: nothing is set up or taken down for each part of it."""

from __future__ import annotations

from lightning_plugin_gateway._alarms import Alarm, Alarms
from lightning_plugin_gateway.upstreams._connection import Response
from lightning_plugin_gateway.upstreams._faults import UpstreamFault, late, silent
from lightning_plugin_gateway.upstreams._policy import HttpPolicy


class Watch:
    """Watches one response while its next part is awaited, by the clock of the event loop.

    Attributes:
        fault: Why it was closed; None if it was not closed here.
    """

    def __init__(
        self, response: Response, *, policy: HttpPolicy, since: float, deadline: float, alarms: Alarms
    ) -> None:
        """Begins to watch.

        Args:
            response: What is closed.
            policy: How late its first part may be, and each after that.
            since: When it was asked for.
            deadline: When its last part must have come.
            alarms: Wakes it.
        """
        self._response = response
        self._policy = policy
        self._since: float | None = since
        self._deadline = deadline
        self._awaited: float | None = None
        self.fault: UpstreamFault | None = None
        self._loop = alarms.loop
        self._alarms = alarms
        self._timer: Alarm | None = None

    def begin(self) -> None:
        """The next part is awaited from now on."""
        self._awaited = self._loop.time()
        if self._timer is None:
            self._set(self._due(self._awaited))

    def heard(self) -> None:
        """It has come; until the next `begin` nobody is late."""
        self._awaited = None
        if self._since is not None:  # from here on less patience is due than the timer was set for
            self._since = None
            self.stop()

    def stop(self) -> None:
        """Ends watching."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    @property
    def _patience_s(self) -> float:
        return self._policy.silence_s if self._since is None else self._policy.first_byte_s

    def _due(self, awaited: float) -> float:
        since = awaited if self._since is None else self._since
        return min(since + self._patience_s, self._deadline)

    def _set(self, when: float) -> None:
        self._timer = self._alarms.at(when, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._awaited is None:  # it is the client that is slow
            return
        now = self._loop.time()
        due = self._due(self._awaited)
        if now < due:
            self._set(due)
            return
        self.fault = late() if now >= self._deadline else silent(self._patience_s)
        self._response.close()
