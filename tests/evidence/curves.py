"""What a run of an experiment leaves behind: its success after each update, and what that took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning.observer import Evaluated, Event, MetricsLogged, PhaseStarted

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Curve:
    """One run. Lists have an entry per update.

    Attributes:
        rollouts: Rollouts that were played until the update's gradient, its own included.
        success: Mean reward of the update's own rollouts, which were sampled before it.
        cpu_s: Processor time of sampling and learning so far, without evaluations.
        wall_s: Likewise, on the clock.
        held_out: Mean reward on the held-out tasks after the last update.
    """

    rollouts: list[int] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    held_out: float | None = None
    extra: dict[str, list[float]] = field(default_factory=dict)


class Stopwatch:
    """Time spent so far, with pauses."""

    def __init__(self) -> None:
        self._cpu_s = self._wall_s = 0.0
        self._since: tuple[float, float] | None = None

    def go(self) -> None:
        """Counts from now on, if it did not yet."""
        if self._since is None:
            self._since = time.process_time(), time.perf_counter()

    def pause(self) -> None:
        """Counts no longer."""
        self._cpu_s, self._wall_s = self.read()
        self._since = None

    def read(self) -> tuple[float, float]:
        """Processor time and wall time, in seconds."""
        cpu_s, wall_s = self._since or (now := (time.process_time(), time.perf_counter()))
        if self._since is None:
            return self._cpu_s, self._wall_s
        now = time.process_time(), time.perf_counter()
        return self._cpu_s + now[0] - cpu_s, self._wall_s + now[1] - wall_s


class Recorder:
    """An observer that draws the curve of a run of LightningRL.

    Args:
        rollouts_per_update: Tasks times group size.
        measured: The success of each rollout so far, where the run is told something else; None takes its reward.
        kept: Names of further metrics to keep.
    """

    def __init__(
        self, rollouts_per_update: int, *, measured: list[float] | None = None, kept: tuple[str, ...] = ()
    ) -> None:
        self.curve = Curve()
        self._watch = Stopwatch()
        self._size = rollouts_per_update
        self._measured = measured
        self._kept = kept

    def notify(self, event: Event) -> None:
        """Takes one event."""
        match event:
            case PhaseStarted(name=name):
                if name.startswith("evaluate"):
                    self._watch.pause()
                elif name == "lightningrl":
                    self._watch.go()
            case MetricsLogged(metrics=metrics) if "reward" in metrics:
                self._log(metrics)
            case Evaluated(label="after", report=report):
                self.curve.held_out = report.mean
            case _:
                pass

    def _log(self, metrics: Mapping[str, float]) -> None:
        curve = self.curve
        cpu_s, wall_s = self._watch.read()
        curve.rollouts.append((len(curve.rollouts) + 1) * self._size)
        curve.success.append(self._success(metrics))
        curve.cpu_s.append(cpu_s)
        curve.wall_s.append(wall_s)
        for name in self._kept:
            curve.extra.setdefault(name, []).append(metrics.get(name, 0.0))

    def _success(self, metrics: Mapping[str, float]) -> float:
        if self._measured is None:
            return metrics["reward"]
        newest = self._measured[-self._size :]
        return sum(newest) / len(newest)


def plain(curve: Curve) -> dict[str, Any]:
    """The curve as JSON has it, times to the millisecond."""
    return {
        "rollouts": curve.rollouts,
        "success": [round(value, 6) for value in curve.success],
        "cpu_s": [round(value, 3) for value in curve.cpu_s],
        "wall_s": [round(value, 3) for value in curve.wall_s],
        "held_out": curve.held_out,
        **{name: [round(value, 6) for value in values] for name, values in curve.extra.items()},
    }
