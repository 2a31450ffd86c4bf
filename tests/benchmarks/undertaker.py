"""Outlives a benchmark by a moment: ends the process groups that it has left behind. Of the standard library alone.

It hears `begun GROUP` and `ended GROUP`, a line each; its input ends when the benchmark does, however that comes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Waits for the end of the input."""
    groups: set[int] = set()
    for line in sys.stdin:
        word, _, group = line.partition(" ")
        (groups.add if word == "begun" else groups.discard)(int(group))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
