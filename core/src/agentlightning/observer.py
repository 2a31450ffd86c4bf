"""Runtime events and who listens to them: trackers, progress views, alerts. Listeners are isolated from each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from agentlightning.algorithm import EvaluationReport
from agentlightning.types import Rollout, Run

_log = logging.getLogger("agentlightning.observer")


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A run began, or went on."""

    run: Run
    resumed: bool = False


class PhaseStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The run turned to something else.

    Attributes:
        name: What it does now, such as `sft` or `evaluate before`.
        total: How much there is to do, if known.
        unit: What is counted: steps of an algorithm, or rollouts of an evaluation.
    """

    name: str
    total: int | None = None
    unit: Literal["steps", "rollouts"] = "steps"


class RolloutFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout became terminal.

    Attributes:
        rewards: Its outcome by dimension, as far as it is known to the runner.
    """

    rollout: Rollout
    rewards: Mapping[str, float] = {}


class MetricsLogged(msgspec.Struct, frozen=True, kw_only=True):
    """The algorithm logged metrics."""

    step: int
    metrics: Mapping[str, float]


class EventLogged(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened that is worth knowing, such as an update with nothing to learn from.

    Attributes:
        kind: What, in a word, such as `nothing_to_train`.
        message: For people.
    """

    kind: str
    message: str


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation ended."""

    label: str
    step: int
    report: EvaluationReport


class RunFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A run ended, in whatever status."""

    run: Run


Event = RunStarted | PhaseStarted | RolloutFinished | MetricsLogged | EventLogged | Evaluated | RunFinished


class Observer(Protocol):
    """Listens to a run. Called on the trainer's event loop: return at once, hand slow work to a thread."""

    def notify(self, event: Event) -> None:
        """Takes one event; unknown kinds are to be ignored."""
        ...


class Observers:
    """Passes events on to every observer; one that raises is logged and left out from then on."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = list(observers)

    def notify(self, event: Event) -> None:
        """Passes `event` on."""
        for observer in list(self._observers):
            try:
                observer.notify(event)
            except Exception:  # noqa: BLE001 - whatever a listener raises, the run goes on
                _log.exception("observer %r failed and is left out from now on", observer)
                self._observers.remove(observer)
