"""Contenders in processes of their own, which stand still while another has its turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

from opponents import Missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CPU_CLOCK: Final = 2  # of a whole process, in the numbering of clock_getcpuclockid(3)
_REAPED: Final = slice(13, 15)  # user and system time of children that ended, in proc(5) after the name
_STOP_TIMEOUT_S: Final = 5.0
_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = {_CORES[0]}
CLIENT_CORE: Final = {_CORES[-1]}


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of its descendants: to the microsecond while they live, to 10 ms once they end."""
    total_s = 0.0
    for one in _descendants(pid):
        with contextlib.suppress(OSError):  # it may end meanwhile
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total_s += sum(map(int, fields[_REAPED])) / os.sysconf("SC_CLK_TCK")
            total_s += time.clock_gettime(~one << 3 | _CPU_CLOCK)
    return total_s


def resident_bytes(pid: int) -> int:
    """Memory that a process and its descendants hold, in bytes; what they share counts for each."""
    pages = 0
    for one in _descendants(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _descendants(int(child))


@cache
def _undertaker() -> IO[bytes]:
    """Takes notes of process groups; one process for all of them, which sees it when this one is gone."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("undertaker.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    return cast("IO[bytes]", process.stdin)


def _note(word: str, group: int) -> None:
    _undertaker().write(f"{word} {group}\n".encode())


class Program:
    """A process group that runs only during its turns; what it says goes to a log that errors show.

    It ends with this process, even if that is killed.

    Args:
        cores: Where it may run; None is anywhere.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cores: set[int] | None = None,
        talks: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="agl-bench-")
        self._log = Path(self._folder.name) / "log"
        pipe = subprocess.PIPE if talks else None
        _undertaker()
        with self._log.open("wb") as log:
            self.process: subprocess.Popen[str] = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                cwd=self._folder.name,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                text=True,
                start_new_session=True,
                # it is noted before it is anything: this process may be killed as soon as it has begun
                preexec_fn=lambda: _note("begun", os.getpid()),  # noqa: PLW1509 - no threads are here yet
            )
        if cores is not None:
            os.sched_setaffinity(self.process.pid, cores)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends it with all that it started."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        self.process.wait()
        _note("ended", self.process.pid)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._folder.cleanup()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Lets it run."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.rest()

    def rest(self) -> None:
        """Lets it stand still, from when it is ready."""
        self._signal(signal.SIGSTOP)

    @property
    def cpu_s(self) -> float:
        """CPU seconds it used so far."""
        return cpu_seconds(self.process.pid)

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""
        return resident_bytes(self.process.pid)

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Worker(Program):
    """A program that answers questions: see `answering`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cores: set[int] | None = None,
    ) -> None:
        super().__init__(command, environment=environment, cores=cores, talks=True)

    def wait_ready(self) -> Self:
        """Waits until it takes questions.

        Raises:
            Missing: It ended before.
        """
        try:
            self._hear()
        except ChildProcessError as error:
            self.__exit__()
            raise Missing(str(error)) from error
        self.rest()
        return self

    def ask(self, cell: str, **question: object) -> dict[str, Any]:
        """Its answer to a question.

        Raises:
            ChildProcessError: It ended instead of answering.
        """
        with self.turn():
            print(json.dumps({"cell": cell, **question}), file=self.process.stdin, flush=True)
            return cast("dict[str, Any]", self._hear())

    def _hear(self) -> object:
        line = cast("IO[str]", self.process.stdout).readline()
        if not line:
            self.process.wait(_STOP_TIMEOUT_S)
            raise ChildProcessError(f"a contender ended with {self.process.returncode}: {self.said()}")
        return json.loads(line)
