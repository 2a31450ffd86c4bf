"""The benchmark runner: rows are found, and the last line is what machines read. No assertion on speed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
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


STARTED_THEN_KILLED = """
import signal, sys
from workers import Program

shell = 'exec 3> "$1"; sleep 600 & echo "$$" >&3; wait'
command = ["sh", "-c", shell, "sh", sys.argv[1]]
with Program(command) as entered:
    not_entered_yet = Program(command)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_benchmark_has_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    alive = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # it ends when the last process has that writes to it
    command = [sys.executable, "-c", STARTED_THEN_KILLED, str(fifo)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": BENCHMARKS}, stderr=subprocess.DEVNULL
    ) as benchmark:
        groups: list[int] = []
        try:
            while len(groups) < 2:
                groups += map(int, _read(alive).split())
            os.killpg(groups[0], signal.SIGSTOP)  # as workers are while others have their turn
            benchmark.send_signal(number)
            assert _read(alive) == b""
        finally:
            benchmark.kill()
            for group in groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            os.close(alive)


def _read(alive: int) -> bytes:
    """What is written next; nothing once nobody is left to write."""
    ready, _, _ = select.select([alive], [], [], 60.0)
    assert ready, "processes are left behind"
    return os.read(alive, 100)
