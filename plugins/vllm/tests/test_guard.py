"""Processes under guard end with whoever started them, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_plugin_vllm._process import ServerProcess

Gone = Callable[..., bool]
PidsIn = Callable[[Path], list[int]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

SERVER = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid} {os.getppid()}")
time.sleep(600)
"""
STARTER = """
import sys, time
from pathlib import Path
from lightning_plugin_vllm._process import ServerProcess
command = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
process = ServerProcess(command, environment={}, log=Path(sys.argv[2] + ".log"), grace_s=5)
process.start()
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_and_its_children_do_not_outlive_who_started_them(
    tmp_path: Path, number: signal.Signals, gone: Gone, pids_in: PidsIn
) -> None:
    pids = tmp_path / "pids"
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, SERVER, str(pids)], stderr=subprocess.DEVNULL
    ) as starter:
        started = pids_in(pids)
        starter.send_signal(number)
        starter.wait()
    assert gone(*started)


async def test_a_server_ends_when_its_guard_is_killed(tmp_path: Path, gone: Gone, pids_in: PidsIn) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", SERVER, str(pids)]
    process = ServerProcess(command, environment={}, log=tmp_path / "log", grace_s=5)
    process.start()
    server, child, guard = pids_in(pids)
    os.kill(guard, signal.SIGKILL)
    assert gone(server, guard)
    os.kill(child, signal.SIGKILL)  # nobody is left who knows of it: vLLM's own workers look after themselves
    await process.stop()


async def test_a_server_that_ends_takes_its_children_along(
    tmp_path: Path, gone: Gone, pids_in: PidsIn
) -> None:
    pids = tmp_path / "pids"
    process = ServerProcess(
        [sys.executable, "-c", SERVER, str(pids)], environment={}, log=tmp_path / "log", grace_s=5
    )
    process.start()
    server, child, guard = pids_in(pids)
    os.kill(server, signal.SIGKILL)
    assert gone(child, guard)
    assert process.returncode == 128 + signal.SIGKILL
    await process.stop()
