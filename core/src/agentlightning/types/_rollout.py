"""Rollouts and attempts: one execution of an agent on one task, and each try at it."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

Json: TypeAlias = object
"""Anything JSON can express: None, bool, int, finite float, str, list, or dict with str keys."""


class Mode(StrEnum):
    """What a rollout is for."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class RolloutStatus(StrEnum):
    """Where a rollout stands; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptStatus(StrEnum):
    """Where an attempt stands; all but the first two are terminal."""

    LEASED = "leased"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    CANCELLED = "cancelled"


class FailureClass(StrEnum):
    """Why an attempt did not succeed. An infrastructure failure is never a reward of 0."""

    AGENT_ERROR = "agent_error"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    CANCELLED = "cancelled"
    INFRASTRUCTURE = "infrastructure"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in an attempt.

    Attributes:
        kind: The class of failure.
        message: One line a person can act on.
        detail: Traceback or raw text, possibly truncated.
    """

    kind: FailureClass
    message: str
    detail: str = ""


class RolloutConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a rollout is executed.

    Attributes:
        timeout_s: Longest duration of one attempt in seconds; None is unlimited.
        max_attempts: Most attempts, retries included; at least 1.
        retry_on: Failure classes that are tried again while attempts are left: by default those that are no fault of
            the agent's.
    """

    timeout_s: float | None = None
    max_attempts: int = 3
    retry_on: tuple[FailureClass, ...] = (FailureClass.LOST, FailureClass.INFRASTRUCTURE)


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for one rollout, as handed to `enqueue`.

    Attributes:
        task: The agent's input.
        id: Client-chosen id, unique in the store; None lets the store choose.
        mode: What the rollout is for.
        run_id: The run it belongs to, if any.
        group: Rollouts of one task that are compared with each other (a GRPO group).
        sample: Index of this rollout within its group.
        seed: Seed from which sampling in this rollout is derived; None is not reproducible.
        resources: Id of the pinned resource set; None pins the live one at lease time.
        config: How it is executed.
        priority: Higher is leased first; first in, first out within one priority.
        metadata: Small labels, such as the training step.
    """

    task: Json
    id: str | None = None
    mode: Mode = Mode.TRAIN
    run_id: str | None = None
    group: str | None = None
    sample: int = 0
    seed: int | None = None
    resources: str | None = None
    config: RolloutConfig = RolloutConfig()
    priority: int = 0
    metadata: dict[str, str] = {}


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of the agent on one task, as the store knows it.

    Fields shared with `RolloutRequest` mean the same. Times are seconds since the epoch by the store's clock.

    Attributes:
        attempts: How many attempts were created so far.
        output: What the agent returned in the successful attempt.
        failure: Why it failed or was cancelled, when it did.
    """

    id: str
    task: Json
    mode: Mode
    run_id: str | None
    group: str | None
    sample: int
    seed: int | None
    resources: str | None
    config: RolloutConfig
    priority: int
    metadata: dict[str, str]
    status: RolloutStatus
    attempts: int
    created_at: float
    finished_at: float | None = None
    output: Json = None
    failure: Failure | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a rollout.

    Attributes:
        id: Unique in the store.
        sequence: 1 for the first try.
        worker: Who holds or held the lease.
        token: Fencing token: rises with every lease of the rollout; older tokens are refused.
        expires_at: When the lease runs out unless a heartbeat extends it.
        deadline_at: When the attempt times out in total; None is never.
    """

    id: str
    rollout_id: str
    sequence: int
    worker: str
    token: int
    status: AttemptStatus
    leased_at: float
    expires_at: float
    deadline_at: float | None = None
    finished_at: float | None = None
    output: Json = None
    failure: Failure | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout taken for execution, with the attempt created for it."""

    rollout: Rollout
    attempt: Attempt


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The store's answer to a heartbeat.

    Attributes:
        expires_at: The lease's new end.
        cancelled: The rollout was cancelled: kill the agent and stop.
    """

    expires_at: float
    cancelled: bool = False


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A finished rollout with its place in the order of completion.

    Attributes:
        cursor: Rises with each completion in the store; pass it back to read on.
    """

    cursor: int
    rollout: Rollout
