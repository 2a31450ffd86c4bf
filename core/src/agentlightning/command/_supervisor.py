"""Runs one command and everything that it starts, and ends all of it: a program of its own, `python _supervisor.py FD`.

It reads one line of JSON from the socket FD, runs what it says, and answers with one line when nothing of it is left.
When the socket is closed at the other end, whatever the reason, it ends the command: so no command outlives its runner.
On Linux it adopts processes that lose their parent, and so finds those that left the command's session, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading the module would be a good part of what a short command takes
    from typing import Any

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_KILL_S = 10.0
_LOOK_S = 0.02
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Tree:
    """The command and what it has started.

    Attributes:
        status: Exit status of the command, negative for a signal; None while it runs.
        empty: Nothing is left of it.
    """

    def __init__(self, leader: int, *, adopts: bool) -> None:
        self._leader = leader
        self._adopts = adopts
        self.status: int | None = None
        self.empty = False

    def reap(self) -> None:
        """Takes note of what has ended."""
        while not self.empty:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.empty = True
                return
            if pid == 0:
                return
            if pid == self._leader:
                self.status = os.waitstatus_to_exitcode(status)

    def signal(self, signum: int) -> int:
        """Signals the command's session and all that this process is the parent of; returns how many those are.

        Only this process reaps its children, so their ids cannot be somebody else's by now. The children of a child
        that was killed are the next call's.
        """
        if self.status is None or not self._adopts:
            _kill(-self._leader, signum)
        children = _children() if self._adopts else []
        for pid in children:
            _kill(pid, signum)
        return len(children)


def main() -> None:
    """Serves the one request."""
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    request = _request(channel)
    if request is None:
        return
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    os.set_blocking(ears, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    asked: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for signum in _ENDING:
        signal.signal(signum, lambda signum, _: asked.append(signum))
    adopts = _prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        os.chdir(request["directory"])
        leader = _start(request)
    except OSError as error:
        _answer(channel, {"errno": error.errno, "error": error.strerror})
        return
    _let_go_of_streams()
    tree = Tree(leader, adopts=adopts)
    while tree.status is None and not asked:
        ready, _, _ = select.select([channel, ears], [], [])
        if ears in ready:
            os.read(ears, 4096)
            tree.reap()
        if channel in ready:
            break
    left = _end(tree, ears, grace_s=request["grace_s"])
    _answer(channel, {"status": tree.status, "left": left, "empty": tree.empty})


def _end(tree: Tree, ears: int, *, grace_s: float) -> int:
    """Ends what is left, gently first; returns how many processes there were besides the command."""
    tree.reap()
    running = int(tree.status is None)
    # where nobody is adopted, the command's group may have outlived it
    left = tree.signal(signal.SIGKILL if tree.empty else signal.SIGTERM) - running
    _wait(tree, ears, until=time.monotonic() + grace_s)
    until = time.monotonic() + _KILL_S
    while not tree.empty and time.monotonic() < until:
        tree.signal(signal.SIGKILL)
        _wait(tree, ears, until=time.monotonic() + _LOOK_S)
    return max(0, left)


def _wait(tree: Tree, ears: int, *, until: float) -> None:
    while not tree.empty and (left_s := until - time.monotonic()) > 0:
        ready, _, _ = select.select([ears], [], [], left_s)
        if ready:
            os.read(ears, 4096)
        tree.reap()


def _start(request: dict[str, Any]) -> int:
    """The command's process id; it leads a session of its own.

    Raises:
        OSError: It cannot be started.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            for signum in (*_ENDING, *_IGNORED_BY_PYTHON, signal.SIGCHLD):
                signal.signal(signum, signal.SIG_DFL)
            os.execve(request["program"], request["argv"], request["environment"])  # noqa: S606
        except OSError as error:
            os.write(writing, str(error.errno or 0).encode())
        finally:
            os._exit(127)
    os.close(writing)
    failed = os.read(reading, 16)
    os.close(reading)
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), os.strerror(int(failed)))
    return pid


def _let_go_of_streams() -> None:
    """The command's streams are its own, so that they end with it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _children() -> list[int]:
    """Processes whose parent this one is."""
    mine, found = os.getpid(), []
    for name in os.listdir("/proc"):  # noqa: PTH208 - as below
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to load
                parent = file.read().rpartition(b")")[2].split()[1]
                if int(parent) == mine:
                    found.append(int(name))
    return found


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def _request(channel: int) -> dict[str, Any] | None:
    """What to run; None if the other end has gone before it had said so."""
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(channel, 65_536)
        if not part:
            return None
        text += part
    request: dict[str, Any] = json.loads(text)
    return request


def _answer(channel: int, answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody may listen any more
        os.write(channel, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
    os._exit(0)  # the interpreter's own clearing up would take longer than the rest
