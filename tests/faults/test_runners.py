"""`agl work` processes are killed in the middle of their rollouts, and every rollout succeeds exactly once."""

from __future__ import annotations

import random

import pytest

from faults.runners import run_runners


@pytest.mark.slow
def test_every_rollout_of_a_killed_runner_succeeds_once() -> None:
    seed = random.SystemRandom().randrange(10**6)
    report = run_runners("sqlite", kills=2, rollouts=60, seed=seed)
    assert report.rollouts == 60, f"seed {seed}"
