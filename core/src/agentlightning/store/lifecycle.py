"""The lifecycle of rollouts and attempts: the table of legal moves, and what each ending does. Pure.

Rollout: `queued → running → succeeded | failed | cancelled`, and `running → queued` on a retry.
Attempt: `leased → running → succeeded | failed | timed_out | lost | cancelled`; an attempt may end without a
heartbeat ever having moved it to running. Terminal is final.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentlightning.errors import IllegalTransition
from agentlightning.types import AttemptStatus, FailureClass, RolloutConfig, RolloutStatus

__all__ = [
    "ATTEMPT_MOVES",
    "ROLLOUT_MOVES",
    "attempt_ended",
    "attempt_ending",
    "check_attempt_move",
    "check_rollout_move",
    "due_at",
    "expiry",
    "rollout_ended",
    "rollout_ending",
]

_ATTEMPT_ENDS: Final = frozenset(
    {
        AttemptStatus.SUCCEEDED,
        AttemptStatus.FAILED,
        AttemptStatus.TIMED_OUT,
        AttemptStatus.LOST,
        AttemptStatus.CANCELLED,
    }
)
_ROLLOUT_ENDS: Final = frozenset({RolloutStatus.SUCCEEDED, RolloutStatus.FAILED, RolloutStatus.CANCELLED})

ROLLOUT_MOVES: Final[Mapping[RolloutStatus, frozenset[RolloutStatus]]] = MappingProxyType(
    {
        RolloutStatus.QUEUED: frozenset({RolloutStatus.RUNNING, RolloutStatus.CANCELLED}),
        RolloutStatus.RUNNING: _ROLLOUT_ENDS | {RolloutStatus.QUEUED},
        **dict.fromkeys(_ROLLOUT_ENDS, frozenset[RolloutStatus]()),
    }
)
"""Where a rollout may go from each status."""

ATTEMPT_MOVES: Final[Mapping[AttemptStatus, frozenset[AttemptStatus]]] = MappingProxyType(
    {
        AttemptStatus.LEASED: _ATTEMPT_ENDS | {AttemptStatus.RUNNING},
        AttemptStatus.RUNNING: _ATTEMPT_ENDS,
        **dict.fromkeys(_ATTEMPT_ENDS, frozenset[AttemptStatus]()),
    }
)
"""Where an attempt may go from each status."""

_ENDINGS: Final[Mapping[FailureClass, AttemptStatus]] = MappingProxyType(
    {
        FailureClass.AGENT_ERROR: AttemptStatus.FAILED,
        FailureClass.INFRASTRUCTURE: AttemptStatus.FAILED,
        FailureClass.TIMED_OUT: AttemptStatus.TIMED_OUT,
        FailureClass.LOST: AttemptStatus.LOST,
        FailureClass.CANCELLED: AttemptStatus.CANCELLED,
    }
)


def rollout_ended(status: RolloutStatus) -> bool:
    """Whether a rollout in this status is terminal."""
    return status in _ROLLOUT_ENDS


def attempt_ended(status: AttemptStatus) -> bool:
    """Whether an attempt in this status is terminal."""
    return status in _ATTEMPT_ENDS


def check_rollout_move(old: RolloutStatus, new: RolloutStatus) -> None:
    """Lets a legal move pass.

    Raises:
        IllegalTransition: The table forbids it.
    """
    if new not in ROLLOUT_MOVES[old]:
        raise IllegalTransition(_refusal("rollout", old.value, new.value, sorted(ROLLOUT_MOVES[old])))


def check_attempt_move(old: AttemptStatus, new: AttemptStatus) -> None:
    """Lets a legal move pass.

    Raises:
        IllegalTransition: The table forbids it.
    """
    if new not in ATTEMPT_MOVES[old]:
        raise IllegalTransition(_refusal("attempt", old.value, new.value, sorted(ATTEMPT_MOVES[old])))


def attempt_ending(failure: FailureClass | None) -> AttemptStatus:
    """How an attempt ends: succeeded without a failure, else by the failure's class."""
    return AttemptStatus.SUCCEEDED if failure is None else _ENDINGS[failure]


def rollout_ending(failure: FailureClass | None, config: RolloutConfig, *, attempts: int) -> RolloutStatus:
    """What the ending of its newest attempt makes of a rollout.

    Args:
        failure: Why the attempt failed; None if it succeeded.
        config: The rollout's, for `retry_on` and `max_attempts`.
        attempts: How many attempts there were, this one included.
    """
    if failure is None:
        return RolloutStatus.SUCCEEDED
    if failure in config.retry_on and attempts < config.max_attempts:
        return RolloutStatus.QUEUED
    return RolloutStatus.CANCELLED if failure is FailureClass.CANCELLED else RolloutStatus.FAILED


def due_at(*, expires_at: float, deadline_at: float | None) -> float:
    """When an open attempt ends by itself: at its lease's end or its deadline, whichever comes first."""
    return expires_at if deadline_at is None else min(expires_at, deadline_at)


def expiry(now: float, *, expires_at: float, deadline_at: float | None) -> FailureClass | None:
    """Why an open attempt is over at `now`, or None while it is not.

    Where both its deadline and its lease have passed, the earlier one decides, so that the answer does not depend
    on when somebody looks.
    """
    if now < due_at(expires_at=expires_at, deadline_at=deadline_at):
        return None
    timed_out = deadline_at is not None and deadline_at <= expires_at
    return FailureClass.TIMED_OUT if timed_out else FailureClass.LOST


def _refusal(noun: str, old: str, new: str, legal: list[str]) -> str:
    ways = f"from {old!r} it may only become {', '.join(legal)}" if legal else f"{old!r} is final"
    return f"a {noun} cannot move from {old!r} to {new!r}: {ways}; nothing was changed"
