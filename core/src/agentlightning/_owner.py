"""Which process drives a run, and whether it is still there."""

from __future__ import annotations

import os
import socket

import msgspec

from agentlightning.types import Run, RunStatus


def owner_name() -> str:
    """This process, as the store knows owners of runs."""
    return f"{socket.gethostname()}:{os.getpid()}"


def owner_is_gone(owner: str) -> bool:
    """Whether the owner is a process of this machine that has ended; False when that cannot be told from here."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def judged(run: Run) -> Run:
    """The run, interrupted if its owner is known to be gone: no need to wait until its lease has run out."""
    if run.status is RunStatus.RUNNING and run.owner is not None and owner_is_gone(run.owner):
        return msgspec.structs.replace(run, status=RunStatus.INTERRUPTED)
    return run
