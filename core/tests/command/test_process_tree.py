"""Whatever a command starts ends with its attempt: after a time-out, a cancellation, and a runner that was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.command import CommandAgent
from agentlightning.errors import AgentError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")

DAEMON = """
import os, pathlib, signal, subprocess, sys, time
def detached(environment):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]], environment)
        os._exit(0)
detached({})
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]], start_new_session=True)
print("begun", flush=True)
pathlib.Path("ready").touch()
"""
STUBBORN = DAEMON + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"


async def test_what_daemonised_ends_with_a_command_that_ended_well(traces: Any) -> None:
    assert await traces.python(DAEMON, grace_s=0.2)("x") == "begun"
    assert traces.alive() == []
    assert traces.places() == []


async def test_a_tree_that_ignores_signals_is_killed_when_its_time_is_over(traces: Any) -> None:
    with pytest.raises(TimeoutError, match=r"took longer than 1\.5 s; its last words on stdout: 'begun'"):
        await traces.python(STUBBORN, timeout_s=1.5, grace_s=0.1)("x")
    assert traces.alive() == []
    assert traces.places() == []


async def test_a_command_that_is_told_to_end_may_do_so_by_itself(traces: Any, tmp_path: Path) -> None:
    polite = f"""
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path({str(tmp_path / "left")!r}).write_text("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
pathlib.Path("ready").touch()
time.sleep(600)
"""
    running = asyncio.create_task(traces.python(polite, grace_s=20.0)("x"))
    await traces.started()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "left").read_text() == "in order"


async def test_a_cancelled_tree_is_gone_and_its_last_words_are_with_the_error(traces: Any) -> None:
    running = asyncio.create_task(traces.python(STUBBORN, grace_s=0.1)("x"))
    await traces.started()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as stopped:
        await running
    assert "was ended; its last words on stdout: 'begun'" in stopped.value.__notes__[0]
    assert traces.alive() == []
    assert traces.places() == []


async def test_being_cancelled_again_and_again_leaves_nothing(traces: Any) -> None:
    running = asyncio.create_task(traces.python(STUBBORN, grace_s=0.2)("x"))
    await traces.started()
    while not running.done():
        running.cancel()
        await asyncio.sleep(0.01)
    await traces.gone()


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 13])
async def test_being_cancelled_at_the_very_beginning_leaves_nothing(traces: Any, turns: int) -> None:
    running = asyncio.create_task(traces.python(STUBBORN, grace_s=0.1)("x"))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert traces.alive() == []
    assert traces.places() == []


async def test_sixteen_trees_at_once_come_and_go(traces: Any) -> None:
    agent = traces.python(STUBBORN, grace_s=0.1)
    running = [asyncio.create_task(agent(number)) for number in range(16)]
    await traces.started(16)
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    assert traces.alive() == []
    assert traces.places() == []


async def test_no_zombies_and_no_descriptors_are_left(traces: Any) -> None:
    agent = CommandAgent(["cat"])
    await agent("x")
    before = descriptors()
    for _ in range(5):
        await agent("x")
    assert descriptors() == before
    assert children() == []


RUNNER = """
import asyncio, sys
from agentlightning import CommandAgent
agent = CommandAgent(["{python}", "-c", sys.argv[2], sys.argv[1]], parent=sys.argv[3], grace_s=0.1)
asyncio.run(agent("x"))
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
async def test_no_tree_outlives_its_runner(traces: Any, signum: signal.Signals) -> None:
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNNER, traces.mark, STUBBORN, str(traces.folder), stderr=subprocess.DEVNULL
    )
    await traces.started()
    runner.send_signal(signum)
    await runner.wait()
    await traces.gone()


async def test_a_supervisor_that_is_killed_takes_the_command_with_it(traces: Any) -> None:
    running = asyncio.create_task(
        traces.python("import pathlib, time\npathlib.Path('ready').touch()\ntime.sleep(600)")("x")
    )
    await traces.started()
    (command,) = traces.alive()
    os.kill(parent_of(command), signal.SIGKILL)
    with pytest.raises(AgentError, match=r"the supervisor of .* was killed"):
        await running
    await traces.gone()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children() -> list[int]:
    """Processes that this one has not reaped."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and parent_of(pid) == os.getpid()]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
