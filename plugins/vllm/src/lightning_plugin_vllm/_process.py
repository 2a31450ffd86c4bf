"""A server's process: started with a log, watched, and ended with all its children, also when this process dies."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentlightning.errors import StoreUnavailable

GUARD = Path(__file__).with_name("_guard.py")
POLL_S = 0.05
TAIL_BYTES = 64 * 1024


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just closed is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServerProcess:
    """One command under guard.

    Attributes:
        log: Where its output goes; it is appended to.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        grace_s: float,
        secrets: Sequence[str] = (),
    ) -> None:
        """Prepares it.

        Args:
            command: What to run.
            environment: All of its environment.
            log: File for its output.
            grace_s: How long it may take to end by itself, in seconds.
            secrets: Texts that no message shows.
        """
        self.log = log
        self._command = [sys.executable, "-I", str(GUARD), str(grace_s), *command]
        self._environment = dict(environment)
        self._grace_s = grace_s
        self._secrets = [secret for secret in secrets if secret]
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0

    @property
    def returncode(self) -> int | None:
        """Exit status once it has ended, 128 + the signal's number if by a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Starts it.

        Raises:
            StoreUnavailable: The log cannot be written.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as output:
                self._begin = output.tell()
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is this process's business; the guard sees the pipe close
                )
        except OSError as error:
            raise StoreUnavailable(
                f"engine 'vllm': the server's log {str(self.log)!r} cannot be written ({error}); name another directory"
            ) from error

    async def stop(self) -> None:
        """Ends it and all its children; does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        waited_s = 0.0
        while process.poll() is None and waited_s < self._grace_s + 10:
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
        process.kill()
        process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines that it wrote since it was started."""
        try:
            with self.log.open("rb") as output:
                size = output.seek(0, 2)
                output.seek(max(self._begin, size - TAIL_BYTES))
                text = output.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(the log cannot be read: {error})"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return "\n".join(text.rstrip().splitlines()[-lines:])
