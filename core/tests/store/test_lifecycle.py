"""The lifecycle table, as properties over every status, failure and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import IllegalTransition
from agentlightning.store import lifecycle
from agentlightning.types import AttemptStatus, FailureClass, RolloutConfig, RolloutStatus

CONFIGS = st.builds(
    RolloutConfig,
    max_attempts=st.integers(1, 5),
    retry_on=st.sets(st.sampled_from(FailureClass)).map(lambda kinds: tuple(sorted(kinds))),
)
FAILURES = st.none() | st.sampled_from(FailureClass)
TIMES = st.floats(0, 1e6)


@pytest.mark.parametrize("old", RolloutStatus)
@pytest.mark.parametrize("new", RolloutStatus)
def test_a_rollout_makes_only_the_moves_of_the_table(old: RolloutStatus, new: RolloutStatus) -> None:
    legal = {
        ("queued", "running"), ("queued", "cancelled"), ("running", "queued"), ("running", "succeeded"),
        ("running", "failed"), ("running", "cancelled"),
    }  # fmt: skip
    if (old.value, new.value) in legal:
        lifecycle.check_rollout_move(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old.value}.*{new.value}"):
            lifecycle.check_rollout_move(old, new)


@pytest.mark.parametrize("old", AttemptStatus)
@pytest.mark.parametrize("new", AttemptStatus)
def test_an_attempt_makes_only_the_moves_of_the_table(old: AttemptStatus, new: AttemptStatus) -> None:
    order = [AttemptStatus.LEASED, AttemptStatus.RUNNING]
    if old in order and new not in order[: order.index(old) + 1]:
        lifecycle.check_attempt_move(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old.value}.*{new.value}"):
            lifecycle.check_attempt_move(old, new)


def test_a_status_is_terminal_exactly_if_nothing_follows_it() -> None:
    assert {status: lifecycle.rollout_ended(status) for status in RolloutStatus} == {
        status: not moves for status, moves in lifecycle.ROLLOUT_MOVES.items()
    }
    assert {status: lifecycle.attempt_ended(status) for status in AttemptStatus} == {
        status: not moves for status, moves in lifecycle.ATTEMPT_MOVES.items()
    }


@given(FAILURES, CONFIGS, st.integers(1, 6))
def test_an_ending_is_always_a_legal_move(
    failure: FailureClass | None, config: RolloutConfig, attempts: int
) -> None:
    ending = lifecycle.attempt_ending(failure)
    assert lifecycle.attempt_ended(ending)
    for status in (AttemptStatus.LEASED, AttemptStatus.RUNNING):
        lifecycle.check_attempt_move(status, ending)
    lifecycle.check_rollout_move(
        RolloutStatus.RUNNING, lifecycle.rollout_ending(failure, config, attempts=attempts)
    )


@given(FAILURES, CONFIGS, st.integers(1, 6))
def test_only_what_retry_on_names_is_tried_again_while_attempts_are_left(
    failure: FailureClass | None, config: RolloutConfig, attempts: int
) -> None:
    retried = lifecycle.rollout_ending(failure, config, attempts=attempts) is RolloutStatus.QUEUED
    assert retried == (failure in config.retry_on and attempts < config.max_attempts)


@given(CONFIGS, st.integers(1, 6))
def test_only_an_attempt_without_failure_makes_a_rollout_succeed(
    config: RolloutConfig, attempts: int
) -> None:
    endings = {
        failure: lifecycle.rollout_ending(failure, config, attempts=attempts) for failure in FailureClass
    }
    assert RolloutStatus.SUCCEEDED not in endings.values()
    assert lifecycle.rollout_ending(None, config, attempts=attempts) is RolloutStatus.SUCCEEDED


@given(TIMES, TIMES, TIMES, st.none() | TIMES)
def test_an_expiry_does_not_depend_on_who_looks_when(
    now: float, later: float, expires_at: float, deadline_at: float | None
) -> None:
    due_at = lifecycle.due_at(expires_at=expires_at, deadline_at=deadline_at)
    reason = lifecycle.expiry(now, expires_at=expires_at, deadline_at=deadline_at)
    assert (reason is None) == (now < due_at)
    if reason is not None:
        assert lifecycle.expiry(now + later, expires_at=expires_at, deadline_at=deadline_at) is reason
        assert reason is (FailureClass.TIMED_OUT if due_at == deadline_at else FailureClass.LOST)
