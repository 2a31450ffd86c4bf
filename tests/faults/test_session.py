"""The session's program: campaigns are found by name, and the last line of each is what machines read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import generate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Python = Callable[..., subprocess.CompletedProcess[str]]

FAULTS = str(generate.ROOT / "tests/faults")


def test_campaigns_end_with_one_line_of_json(python: Python) -> None:
    done = python(FAULTS, "simulation", "history", "--seeds", "2", "--calls", "200", "--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    simulation, history = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert (simulation["name"], simulation["seed"], simulation["seeds"]) == ("simulation", 7, 2)
    assert simulation["calls"] > 0
    assert history["calls"] >= 200


def test_an_unknown_campaign_is_refused_with_the_names_there_are(python: Python) -> None:
    done = python(FAULTS, "simulated")
    assert done.returncode == 2
    assert "there is no campaign simulated; there are: crashes, runners" in done.stderr
