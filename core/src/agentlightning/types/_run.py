"""Runs: training and evaluation jobs that survive their process."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agentlightning.types._rollout import Json


class RunKind(StrEnum):
    """What kind of job it is."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    OBSERVE = "observe"


class RunStatus(StrEnum):
    """Where a run stands. `interrupted` and `stopped` can be resumed; `succeeded` and `failed` are final."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run can go on from.

    Attributes:
        step: Finished steps.
        path: Directory that holds the learner's state and the algorithm's.
    """

    step: int
    path: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training or evaluation job.

    Attributes:
        config: Everything needed to start it again.
        environment: Versions and platform it ran on.
        owner: Process that drives it (`host:pid`); None when nobody does.
        expires_at: When the owner is taken for dead unless it calls `heartbeat`.
        summary: Results by name, growing while it runs.
        error: Why it failed.
    """

    id: str
    kind: RunKind
    algorithm: str
    status: RunStatus
    config: dict[str, Json]
    seed: int
    created_at: float
    updated_at: float
    environment: dict[str, str] = {}
    owner: str | None = None
    expires_at: float | None = None
    finished_at: float | None = None
    checkpoint: Checkpoint | None = None
    summary: dict[str, Json] = {}
    error: str | None = None


class MetricPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one metric series.

    Attributes:
        step: The algorithm's step, from 0.
        time: Seconds since the epoch.
    """

    name: str
    step: int
    value: float
    time: float


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a run, for people and for `agl runs show`."""

    kind: str
    message: str
    time: float
    data: dict[str, Json] = {}
