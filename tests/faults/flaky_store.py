"""A worker's view of a store: calls are dropped, delayed and duplicated on the way, and answers on the way back."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning.errors import AglError, StoreUnavailable

if TYPE_CHECKING:
    import random

    from faults.invariants import Watch

_LONG_S = 45.0  # longer than a lease: whoever waits so long comes back as a zombie


@dataclass
class Weather:
    """How bad the way to the store is, shared by all who take it.

    Attributes:
        fault: Probability that something happens to a call.
        counts: What happened, by name.
        trace: Every call that arrived: time, caller, method, outcome.
        late: Duplicates on their way; they arrive even if their sender has died.
    """

    chance: random.Random
    fault: float
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    late: set[asyncio.Task[Any]] = field(default_factory=set)

    def draw(self) -> str:
        """What happens to a call; mostly nothing."""
        if self.chance.random() >= self.fault:
            return ""
        kind = self.chance.choice(
            ("lost request", "lost answer", "delay", "delay", "long delay", "duplicate")
        )
        self.counts[kind] += 1
        return kind


class FlakyStore:
    """Has the parts of a store; each call goes through the weather. Killed, it neither sends nor answers.

    Args:
        watch: The real store.
        name: Of the worker.
    """

    def __init__(self, watch: Watch, weather: Weather, *, name: str) -> None:
        self.url = "memory://"
        self.rollouts = _Part(self, "rollouts")
        self.spans = _Part(self, "spans")
        self.resources = _Part(self, "resources")
        self.runs = _Part(self, "runs")
        self.acknowledged: dict[str, set[str]] = {}
        self.killed = False
        self._watch = watch
        self._weather = weather
        self.name = name

    async def call(self, part: str, method: str, *args: Any, **options: Any) -> Any:
        """One call over the bad way."""
        chance, fault = self._weather.chance, self._weather.draw()
        if fault == "delay":
            await asyncio.sleep(chance.expovariate(2.0))
        elif fault == "long delay":
            await asyncio.sleep(chance.uniform(0.0, _LONG_S))
        elif fault == "lost request":
            raise StoreUnavailable("the request was lost on the way")
        elif fault == "duplicate":
            again = asyncio.create_task(self._again(chance.expovariate(0.5), part, method, *args, **options))
            self._weather.late.add(again)
            again.add_done_callback(self._weather.late.discard)
        await asyncio.sleep(0)
        if self.killed:
            await asyncio.Event().wait()
        result = await self._send(part, method, *args, **options)
        if fault == "lost answer":
            raise StoreUnavailable("the answer was lost on the way")
        if (part, method) == ("spans", "append"):
            for span in args[0]:
                self.acknowledged.setdefault(span.attempt_id, set()).add(span.span_id)
        return result

    async def _send(self, part: str, method: str, *args: Any, **options: Any) -> Any:
        outcome = "ok"
        try:
            return await self._watch.call(part, method, *args, **options)
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            now = asyncio.get_running_loop().time()
            self._weather.trace.append(f"{now:.6f} {self.name} {part}.{method} {outcome}")

    async def _again(self, delay_s: float, part: str, method: str, *args: Any, **options: Any) -> None:
        """The same request once more, whose answer nobody reads."""
        await asyncio.sleep(delay_s)
        try:
            await self._send(part, method, *args, **options)
        except AglError:
            self._weather.counts["refused duplicate"] += 1


class _Part:
    def __init__(self, store: FlakyStore, name: str) -> None:
        self._store = store
        self._name = name

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            return await self._store.call(self._name, method, *args, **options)

        return call
