"""The evidence that it learns: runs are played one by one, and told apart; what they come to is added up as it says."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Python = Callable[..., subprocess.CompletedProcess[str]]

EVIDENCE = generate.ROOT / "tests/evidence"


@pytest.mark.slow
def test_a_run_leaves_its_curve(python: Python, tmp_path: Path) -> None:
    folder = ["--folder", str(tmp_path)]
    done = python(str(EVIDENCE), *folder, "--updates", "3", "--one", "credit", "critic", "0")
    assert done.returncode == 0, done.stderr
    curve = json.loads((tmp_path / "curves" / "credit-critic-0.json").read_text())
    assert curve["rollouts"] == [16, 32, 48]
    assert all(0 < value < 1 for value in curve["success"])
    assert curve["cpu_s"] == sorted(curve["cpu_s"])


def test_an_unknown_experiment_is_refused_with_the_names_there_are(python: Python) -> None:
    done = python(str(EVIDENCE), "credits")
    assert done.returncode == 2
    assert (
        "no experiment is called credits; there are: calculator, credit, forest, asynchronous" in done.stderr
    )


def test_a_table_says_when_the_goal_was_reached_and_by_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EVIDENCE)
    from summary import reached, table

    run = {
        "success": [0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        "rollouts": [1, 2, 3, 4, 5, 6],
        "cpu_s": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "wall_s": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "held_out": 1.0,
    }
    never = {**run, "success": [0.0] * 6, "held_out": 0.0}
    assert reached(run, 0.75, measure="rollouts") == 5  # the mean over four updates
    assert reached(never, 0.75, measure="rollouts") is None
    experiment = SimpleNamespace(goal=0.75, arms={"ours": SimpleNamespace(title="Ours")})
    last = table(experiment, {"ours": [run, never]}).splitlines()[-1]
    assert last.startswith("| Ours | 2 | 5 [5, 5], median 5, 1 never |")
    for name in ("summary", "curves"):
        sys.modules.pop(name, None)
