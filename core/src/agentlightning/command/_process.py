"""Runs a command under a supervisor, which ends all that the command has started when the attempt is over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec

from agentlightning.command._streams import Captured, drain
from agentlightning.errors import AgentError

_log = logging.getLogger("agentlightning.command")
_SUPERVISOR: Final = Path(__file__).with_name("_supervisor.py")
_ENDING_S: Final = 15.0
"""How much longer than its grace a supervisor may take to end everything."""
_ERRORS_BYTES: Final = 64 * 1024


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor says in the end: the exit status, or why there is none."""

    status: int | None = None
    left: int = 0
    empty: bool = True
    errno: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is run.

    Attributes:
        program: Path of the program.
        argv: Its arguments, the name it is called by first.
        environment: All of its environment.
        stdin: What it can read.
        grace_s: How long it has to end by itself when it is told to, in seconds.
        max_output_bytes: How much of its output is kept.
    """

    program: str
    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    stdin: bytes = field(repr=False)
    grace_s: float
    max_output_bytes: int


class Running:
    """A command from its start until nothing is left of it.

    Attributes:
        output: What it has printed so far.
        errors: What it has complained of so far.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self.output = Captured(limit=command.max_output_bytes)
        self.errors = Captured(limit=_ERRORS_BYTES)

    async def run(self) -> int:
        """Its exit status, negative for a signal; when cancelled, all of it is ended first.

        Raises:
            AgentError: It cannot be started, or its supervisor was killed.
        """
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs), contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            process = self._start(theirs)
            undo.pop_all()
        answer = asyncio.create_task(self._asked(ours))
        streams = [asyncio.create_task(job) for job in self._draining(process)]
        try:
            said = await asyncio.shield(answer)
            await asyncio.wait(streams, timeout=_ENDING_S)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_WR)  # at once: whatever else happens, the supervisor knows
            await asyncio.wait([answer, *streams], timeout=self._command.grace_s + _ENDING_S)
            raise
        finally:
            for task in (answer, *streams):
                task.cancel()
            _reap(process, ended=answer.done())
        return self._status(said)

    async def _asked(self, channel: socket.socket) -> bytes:
        """What the supervisor says in the end; nothing if it was killed."""
        loop = asyncio.get_running_loop()
        said = b""
        with channel, contextlib.suppress(OSError):
            channel.setblocking(False)
            await loop.sock_sendall(channel, self._request())
            while part := await loop.sock_recv(channel, 4096):
                said += part
        return said

    def _start(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-X", "utf8", str(_SUPERVISOR), str(channel.fileno())]
        with _readable(self._command.stdin) as stdin:
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={},
                cwd=self._command.directory,
                pass_fds=(channel.fileno(),),
                start_new_session=True,  # what interrupts the runner must not interrupt the clearing up
            )

    def _draining(self, process: subprocess.Popen[bytes]) -> Iterator[Coroutine[None, None, None]]:
        for pipe, into in ((process.stdout, self.output), (process.stderr, self.errors)):
            if pipe is not None:
                yield drain(pipe, into)

    def _request(self) -> bytes:
        command = self._command
        request = {
            "program": command.program,
            "argv": list(command.argv),
            "environment": dict(command.environment),
            "directory": str(command.directory),
            "grace_s": command.grace_s,
        }
        return json.dumps(request).encode() + b"\n"

    def _status(self, said: bytes) -> int:
        program = self._command.argv[0]
        if not said:
            raise AgentError(f"the supervisor of {program!r} was killed, and the command with it")
        answer = msgspec.json.decode(said, type=_Answer)
        if not answer.empty:
            _log.warning("processes that %r has started cannot be ended; look for them by hand", program)
        if answer.status is None:
            hint = "; hand large tasks over by stdin or a file" if answer.errno == errno.E2BIG else ""
            raise AgentError(f"{program!r} cannot be started: {answer.error}{hint}")
        if answer.left:
            _log.info("%r left %d processes behind, which were ended", program, answer.left)
        return answer.status


@contextlib.contextmanager
def _readable(content: bytes) -> Iterator[IO[bytes] | int]:
    """A file with the content, as a standard input: unlike a pipe it need not be read, nor be fed."""
    if not content:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


def _reap(process: subprocess.Popen[bytes], *, ended: bool) -> None:
    """Leaves no zombie; a supervisor that still has work to do is waited for by a thread."""
    try:
        process.wait(timeout=1.0 if ended else 0.0)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.wait, name="agl-reaper", daemon=True).start()
