"""What a store should do, in the fewest words: the model that every backend is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agentlightning.types import RolloutConfig

ENDINGS: Final = {None: "succeeded", "timed_out": "timed_out", "lost": "lost", "cancelled": "cancelled"}
"""Status of an attempt by the failure that it ended with; `failed` for every other."""


@dataclass
class ModelAttempt:
    """An attempt, as far as the model knows it."""

    rollout: ModelRollout
    number: int
    token: int
    expires_at: float
    deadline_at: float
    status: str = "leased"
    finished: tuple[str | None] | None = None  # how a worker finished it, if one did
    spans: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.status in {"leased", "running"}

    @property
    def due_at(self) -> float:
        """When it ends by itself."""
        return min(self.expires_at, self.deadline_at)


@dataclass
class ModelRollout:
    """A rollout, as far as the model knows it."""

    number: int
    priority: int
    config: RolloutConfig
    run_id: str | None = None
    status: str = "queued"
    resources: str | None = None
    attempts: list[ModelAttempt] = field(default_factory=list)
    gone: bool = False  # trimmed


@dataclass
class ModelSet:
    """A resource set, as far as the model knows it; a canary has all of the traffic or none."""

    id: str
    state: str
    weight: float


class Model:
    """What a store should do, in the fewest words."""

    def __init__(self, *, open_run: str) -> None:
        self.open_run = open_run  # the run that is not over
        self.now = 0.0
        self.sets: list[ModelSet] = []
        self.rollouts: list[ModelRollout] = []
        self.attempts: list[ModelAttempt] = []
        self.completed: list[int] = []

    def sweep(self) -> None:
        """Ends what is overdue."""
        overdue = [attempt for attempt in self.attempts if attempt.open and attempt.due_at <= self.now]
        for attempt in sorted(overdue, key=lambda each: (each.due_at, each.number)):
            self.end(attempt, "timed_out" if attempt.deadline_at <= attempt.expires_at else "lost")

    def end(self, attempt: ModelAttempt, kind: str | None) -> None:
        """Ends an attempt with a class of failure, or well."""
        rollout = attempt.rollout
        attempt.status = ENDINGS.get(kind, "failed")
        if kind in rollout.config.retry_on and len(rollout.attempts) < rollout.config.max_attempts:
            rollout.status, rollout.resources = "queued", None
        else:
            self.complete(rollout, kind if kind == "cancelled" else "failed" if kind else "succeeded")

    def complete(self, rollout: ModelRollout, status: str) -> None:
        """Ends a rollout."""
        rollout.status = status
        self.completed.append(rollout.number)

    def lease(self, limit: int, ttl_s: float, run_id: str | None) -> list[ModelAttempt]:
        """Takes work, of a run if one is given."""
        queue = [rollout for rollout in self.rollouts if rollout.status == "queued"]
        queue = [rollout for rollout in queue if run_id in {None, rollout.run_id}]
        queue.sort(key=lambda rollout: (-rollout.priority, rollout.number))
        for rollout in queue[:limit]:
            deadline_at = self.now + (rollout.config.timeout_s or float("inf"))
            token = len(rollout.attempts) + 1
            attempt = ModelAttempt(rollout, len(self.attempts), token, self.now + ttl_s, deadline_at)
            rollout.status, rollout.resources = "running", self.chosen()
            rollout.attempts.append(attempt)
            self.attempts.append(attempt)
        return [rollout.attempts[-1] for rollout in queue[:limit]]

    def live(self) -> str | None:
        """The live set."""
        return next((one.id for one in self.sets if one.state == "live"), None)

    def chosen(self) -> str | None:
        """The set that leased work runs on."""
        canaries = (one.id for one in self.sets if one.state == "canary" and one.weight)
        return next(canaries, self.live())

    def move(self, moved: ModelSet, state: str, weight: float) -> None:
        """Puts a set into a state; what was live makes way for a new live one."""
        for other in self.sets:
            if state == other.state == "live" and other is not moved:
                other.state = "retired"
        moved.state, moved.weight = state, weight

    def cancel(self, rollout: ModelRollout) -> None:
        """Cancels what is not over."""
        if rollout.status in {"queued", "running"}:
            if rollout.attempts and rollout.attempts[-1].open:
                rollout.attempts[-1].status = "cancelled"
            self.complete(rollout, "cancelled")

    def append(self, attempt: ModelAttempt, spans: list[int], token: int) -> None:
        """Adds spans."""
        late = not attempt.open or token < attempt.token
        for number in spans:
            if number not in [known for known, _ in attempt.spans]:
                attempt.spans.append((number, late))

    def trim(self, most: int) -> int:
        """Deletes the oldest but `most` terminal rollouts, never the newest nor those of the open run; how many."""
        there = [number for number in self.completed if not self.rollouts[number].gone]
        expendable = [number for number in there[:-1] if self.rollouts[number].run_id != self.open_run]
        oldest = expendable[: max(0, len(there) - most)]
        for number in oldest:
            self.rollouts[number].gone = True
        return len(oldest)
