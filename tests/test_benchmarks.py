"""The benchmark runner: rows are found, and the last line is what machines read. No assertion on speed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import generate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Python = Callable[..., subprocess.CompletedProcess[str]]

BENCHMARKS = str(generate.ROOT / "tests/benchmarks")


def test_a_row_ends_with_one_line_of_json(python: Python) -> None:
    done = python(BENCHMARKS, "import", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["name"] == "import"
    assert row["ratios"].keys() == {"import", "help"}
    assert row["detail"]["rounds"] == 1


def test_an_unknown_row_is_refused_with_the_names_there_are(python: Python) -> None:
    done = python(BENCHMARKS, "imprt")
    assert done.returncode == 2
    assert "no row is called imprt; there are: capture" in done.stderr
