"""The observer `progress`: a live view in a terminal, plain lines anywhere else, always on stderr."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentlightning.algorithm import EvaluationReport
from agentlightning.observer import (
    Evaluated,
    Event,
    EventLogged,
    MetricsLogged,
    PhaseStarted,
    RolloutFinished,
    RunFinished,
    RunStarted,
)

_WINDOW: Final = 256
"""Rollouts that the reward is averaged over."""
_LINE_EVERY_S: Final = 10.0
"""Shortest time between plain lines about metrics, or about events of one kind, in seconds."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_SHOWN: Final = 6
"""Metrics shown at once."""


class Progress:
    """Shows how a run goes: phase, rewards with a 95 % band, speed, evaluations.

    Args:
        console: Where to; None is stderr.
        clock: Seconds, rising.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._live: Live | None = None
        self._started = self._phase_started = self._training_started = clock()
        self._last_line = -math.inf
        self._phase = self._training = PhaseStarted(name="starting")
        self._steps = _Steps()
        self._tokens = _Rate(clock)
        self._finished = self._failed = self._in_phase = 0
        self._rewards: deque[float] = deque(maxlen=_WINDOW)
        self._curve: deque[float] = deque(maxlen=40)
        self._metrics: dict[str, float] = {}
        self._step = 0
        self._evaluations: list[str] = []
        self._event = ""
        self._events_said: dict[str, float] = {}

    def notify(self, event: Event) -> None:
        """Takes one event."""
        match event:
            case RunStarted():
                self._start(event)
            case PhaseStarted():
                self._begin(event)
            case RolloutFinished():
                self._count(event)
            case MetricsLogged():
                self._log(event)
            case EventLogged():
                self._tell(event)
            case Evaluated():
                line = f"{event.label}: {_outcome(event.report)}"
                self._evaluations.append(line)
                self._say(line)
                self._phase = self._training
            case RunFinished():
                self._stop(event)

    def _start(self, event: RunStarted) -> None:
        self._started = self._phase_started = self._clock()
        self._say(f"run {event.run.id} {'goes on' if event.resumed else 'started'} ({event.run.algorithm})")
        if self._console.is_terminal and self._live is None:
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=4)
            self._live.start()

    def _stop(self, event: RunFinished) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._say(f"run {event.run.id} {event.run.status} after {_duration(self._clock() - self._started)}")

    def _begin(self, event: PhaseStarted) -> None:
        """An evaluation is an interlude; an algorithm starts its own count."""
        self._phase, self._in_phase, self._phase_started = event, 0, self._clock()
        if event.unit == "steps":
            self._training, self._steps, self._training_started = event, _Steps(), self._clock()
            self._step, self._metrics = 0, {}
            self._tokens = _Rate(self._clock)
        self._say(f"{event.name} …")

    def _count(self, event: RolloutFinished) -> None:
        self._finished += 1
        self._in_phase += 1
        self._failed += event.rollout.failure is not None
        if event.rewards:
            self._rewards.append(event.rewards.get("reward", fmean(event.rewards.values())))

    def _log(self, event: MetricsLogged) -> None:
        self._step = event.step
        self._metrics |= event.metrics
        if not all(name.startswith("eval/") for name in event.metrics):
            self._steps.update(event.step)
        for name, value in event.metrics.items():
            if name.endswith("num_tokens"):
                self._tokens.update(value)
        self._curve.append(event.metrics["reward"]) if "reward" in event.metrics else None
        now = self._clock()
        text = self._metrics_text()
        if text and not self._live and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._say(f"step {event.step}: {text}  ({self._speeds()})")

    def _tell(self, event: EventLogged) -> None:
        """What happens at every update is said now and then."""
        if event.kind == "phase":
            return
        self._event = f"{event.kind}: {event.message}"
        now = self._clock()
        if now - self._events_said.get(event.kind, -math.inf) >= _LINE_EVERY_S:
            self._events_said[event.kind] = now
            self._say(self._event)

    def _say(self, line: str) -> None:
        """A plain line, where there is no live view."""
        if self._live is None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _speed(self) -> float:
        return self._in_phase / max(1e-9, self._clock() - self._phase_started)

    def _speeds(self) -> str:
        speeds = [f"{self._speed():.1f} rollouts/s"] if self._in_phase else []
        return "  ".join([*speeds, f"{self._tokens.per_second():,.0f} tokens/s"])

    def _metrics_text(self) -> str:
        shown = [name for name in self._metrics if not name.startswith("eval/")][:_SHOWN]
        return "  ".join(f"{name} {self._metrics[name]:.4g}" for name in shown)

    def _view(self) -> Group:
        """What the terminal shows now."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        elapsed = _duration(self._clock() - self._started)
        table.add_row("phase", Text(f"{self._phase.name}{self._share()}", style="bold"))
        table.add_row("reward", self._band())
        table.add_row("rollouts", f"{self._finished} ({self._failed} failed)  {self._speeds()}")
        table.add_row(f"step {self._step}", self._metrics_text() or "n/a")
        for line in self._evaluations[-4:]:
            table.add_row("held out", Text(line, style="cyan"))
        if self._event:
            table.add_row("event", Text(self._event, style="yellow"))
        table.add_row("time", f"{elapsed}{self._eta()}")
        return Group(table)

    def _done(self) -> int:
        return self._steps.done() if self._phase.unit == "steps" else self._in_phase

    def _share(self) -> str:
        total = self._phase.total
        return f"  {min(self._done(), total)}/{total}" if total else ""

    def _eta(self) -> str:
        done, total = self._done(), self._phase.total
        if not total or not done:
            return ""
        since = self._training_started if self._phase.unit == "steps" else self._phase_started
        left = max(0, total - done) * (self._clock() - since) / done
        return f"  ({self._phase.name} ends in about {_duration(left)})"

    def _band(self) -> Text:
        if not self._rewards:
            return Text("n/a")
        half = 1.96 * pstdev(self._rewards) / math.sqrt(len(self._rewards))
        text = Text(f"{fmean(self._rewards):.3f} ± {half:.3f} ", style="green")
        return text.append(sparkline(list(self._curve)), style="dim")


class _Steps:
    """How many steps of a phase are done, where only every so many-th logs metrics, or several times."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._last = 0
        self._stride = 1

    def update(self, step: int) -> None:
        """Takes the step of newly logged metrics; the distance of the first two says how many each stands for."""
        if self._first is None:
            self._first = self._last = step
        elif step > self._last:
            if self._last == self._first:
                self._stride = step - self._first
            self._last = step

    def done(self) -> int:
        """0 until one has logged."""
        return 0 if self._first is None else self._last - self._first + self._stride


class _Rate:
    """Growth of a counter per second, since it was first seen."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)

    def update(self, value: float) -> None:
        """Takes the counter's newest value."""
        self._last = (self._clock(), value)
        self._first = self._first or self._last

    def per_second(self) -> float:
        """0 until it was seen twice."""
        if self._first is None or self._last[0] <= self._first[0]:
            return 0.0
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


def sparkline(values: list[float]) -> str:
    """Values as a row of bars, lowest to highest; empty for none."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _outcome(report: EvaluationReport) -> str:
    if not report.n:
        failures = ", ".join(f"{kind} {count}" for kind, count in report.failures.items())
        return f"no task has an outcome{f' ({failures})' if failures else ''}"
    return f"{report.mean:.3f} [{report.low:.3f}, {report.high:.3f}] on {report.n} tasks"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
