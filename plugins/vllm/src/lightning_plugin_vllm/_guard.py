"""Runs one command, and ends it with all its children when the process that started this one is gone.

A script of its own on nothing but the standard library: `python -I _guard.py GRACE_S COMMAND…`. Standard input is a
pipe that nobody writes to; its end tells that the starter wants the command to stop, or is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main(grace_s: float, command: list[str]) -> int:
    """Runs the command; returns its exit status."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there is no other thread yet
    )
    threading.Thread(target=_stop_at_end_of_input, args=(child, grace_s), daemon=True).start()
    status = child.wait()
    _signal(child, signal.SIGKILL)  # what it has left behind
    return status if status >= 0 else 128 - status


def die_with_parent() -> None:
    """Linux ends the command also when this process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)


def _stop_at_end_of_input(child: subprocess.Popen[bytes], grace_s: float) -> None:
    while os.read(0, 1):
        pass
    _signal(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_s)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
