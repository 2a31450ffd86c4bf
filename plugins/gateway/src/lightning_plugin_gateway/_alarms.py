"""Timers by the thousand, of which next to none goes off: they share one timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, Self

_TICK_S: Final = 0.1
_SOON_S: Final = 1.0
"""What is due sooner than this gets a timer of its own: those that share one go off up to a tick late."""


class Alarm(Protocol):
    """A timer that was set."""

    def cancel(self) -> None:
        """It shall not go off."""
        ...


class Alarms:
    """Sets timers and limits times. Belongs to the event loop that uses it first, until that is closed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shared: set[_Shared] = set()
        self._next = 0.0
        self._ticking = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to. Asking for the running one is a system call, each time."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._shared.clear()
            self._ticking = False
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def at(self, when: float, callback: Callable[[], None]) -> Alarm:
        """Calls back when the loop's clock has come to `when`, in seconds."""
        loop = self.loop
        if when - loop.time() < _SOON_S:
            return loop.call_at(when, callback)
        return self._share(when, callback)

    def at_next_tick(self, callback: Callable[[], None]) -> Alarm:
        """Calls back within a tenth of a second."""
        return self._share(0.0, callback)

    def timeout(self, when: float) -> Timeout:
        """Limits a block, as `asyncio.timeout_at` does, but with a plain `with`."""
        return Timeout(self, when)

    def _share(self, when: float, callback: Callable[[], None]) -> Alarm:
        loop = self.loop
        alarm = _Shared(self._shared, when, callback)
        if not self._shared or when < self._next:
            self._next = when
        self._shared.add(alarm)
        if not self._ticking:
            self._ticking = True
            loop.call_later(_TICK_S, self._tick)
        return alarm

    def _tick(self) -> None:
        loop = self.loop
        now = loop.time()
        if self._shared and now >= self._next:
            for alarm in [alarm for alarm in self._shared if alarm.when <= now]:
                self._shared.discard(alarm)
                alarm.callback()
            self._next = min((alarm.when for alarm in self._shared), default=0.0)
        self._ticking = bool(self._shared)
        if self._ticking:
            loop.call_later(_TICK_S, self._tick)


class Timeout:
    """Ends a block that takes longer than it may: the block's task is cancelled, which leaves it as `TimeoutError`."""

    __slots__ = ("_alarm", "_alarms", "_cancelling", "_expired", "_task", "_when")

    def __init__(self, alarms: Alarms, when: float) -> None:
        self._alarms = alarms
        self._when = when
        self._expired = False

    def __enter__(self) -> Self:
        """Begins to watch the current task."""
        task = asyncio.current_task(self._alarms.loop)
        if task is None:
            raise RuntimeError("a timeout limits a task, and there is none")
        self._task = task
        self._cancelling = task.cancelling()
        self._alarm = self._alarms.at(self._when, self._expire)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Ends watching. Raises `TimeoutError` in place of the cancellation that it has caused."""
        self._alarm.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


class _Shared:
    __slots__ = ("_among", "callback", "when")

    def __init__(self, among: set[_Shared], when: float, callback: Callable[[], None]) -> None:
        self._among = among
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        self._among.discard(self)
