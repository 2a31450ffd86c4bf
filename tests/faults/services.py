"""The stores that campaigns torment: how each is started, what of it can be killed, and how its files are checked."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from faults.invariants import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

AGL = str(Path(sys.executable).with_name("agl"))
_PATIENCE_S = 60.0


class Service(Protocol):
    """A store that writers use by its URL.

    Attributes:
        environment: What its users need in theirs.
        skew_s: How far apart the times of two transactions may be from their order, in seconds.
    """

    url: str
    skew_s: float
    environment: dict[str, str]

    def kill(self, chance: random.Random) -> str:
        """Kills a part of it and brings it back; what was killed, or nothing."""
        ...

    def check(self) -> None:
        """Looks at its files. Raises `Violation`."""
        ...


class SqliteService:
    """A file."""

    skew_s = 0.0

    def __init__(self, folder: Path, *, durability: str = "normal") -> None:
        self.path = folder / "store.db"
        self.url = f"sqlite:///{self.path}?durability={durability}"
        self.environment: dict[str, str] = {}

    def kill(self, chance: random.Random) -> str:
        """A file cannot be killed."""
        del chance
        return ""

    def check(self) -> None:
        """Checks the file's integrity, as SQLite sees it."""
        with closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        require(found == [("ok",)], "the file is damaged", found[:5])


class HttpService:
    """`agl serve` over a file, in a process of its own."""

    skew_s = 0.0

    def __init__(self, folder: Path) -> None:
        self._file = SqliteService(folder)
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = (folder / "server.log").open("ab")
        self.environment = {"AGL_KEY": "agl-fault-campaign-key", "XDG_STATE_HOME": str(folder / "state")}
        self._process = self._start()

    def kill(self, chance: random.Random) -> str:
        """Kills the server every second time."""
        if chance.random() < 0.5:
            return ""
        self._process.kill()
        self._process.wait()
        time.sleep(chance.uniform(0.0, 0.5))
        self._process = self._start()
        return "server"

    def check(self) -> None:
        """Checks the server's file."""
        self._file.check()

    def stop(self) -> None:
        """Ends it in good order."""
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [AGL, "serve", "--store", self._file.url, "--port", str(self._port)]
        process = subprocess.Popen(
            command, env=os.environ | self.environment, stdout=self._log, stderr=self._log
        )
        until = time.monotonic() + _PATIENCE_S
        while not _answers(f"{self.url}/healthz"):
            require(process.poll() is None, "the server died at its start", self._said())
            require(time.monotonic() < until, "the server does not come up", self._said())
            time.sleep(0.05)
        return process

    def _said(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]


class PostgresService:
    """A PostgreSQL server of its own."""

    skew_s = 1.0  # transactions run side by side, and each reads the clock at its start

    def __init__(self, server: object) -> None:
        from lightning_plugin_postgres.testing import PostgresServer

        assert isinstance(server, PostgresServer)
        self._server = server
        self.url = server.url(schema="faults")
        self.environment: dict[str, str] = {}

    def kill(self, chance: random.Random) -> str:
        """Kills one backend, which takes all others down; or crashes the server; or cuts all connections."""
        kind = chance.choice(("", "", "backend", "postgres", "connections"))
        if kind == "backend":
            with self._server.connect() as connection:
                rows = connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                ).fetchall()
            if not rows:
                return ""
            os.kill(int(str(chance.choice(rows)[0])), signal.SIGKILL)
        elif kind == "postgres":
            self._server.restart("immediate")
        elif kind == "connections":
            self._server.kill_backends()
        return kind

    def check(self) -> None:
        """Its files are its own affair."""


@contextmanager
def _sqlite(durability: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="agl-faults-") as folder:
        yield SqliteService(Path(folder), durability=durability)


@contextmanager
def _http() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="agl-faults-") as folder:
        service = HttpService(Path(folder))
        try:
            yield service
        finally:
            service.stop()


@contextmanager
def _postgres() -> Iterator[Service]:
    from lightning_plugin_postgres.testing import PostgresServer

    with PostgresServer() as server:
        yield PostgresService(server)


SERVICES: dict[str, Callable[[], AbstractContextManager[Service]]] = {
    "sqlite": lambda: _sqlite("normal"),
    "sqlite-full": lambda: _sqlite("full"),
    "http": _http,
    "postgresql": _postgres,
}
"""Makes a fresh, empty store by name."""


def missing(name: str) -> str:
    """Why a store cannot be had on this machine; empty if it can."""
    if name == "postgresql":
        from lightning_plugin_postgres.testing import find_binaries

        if find_binaries() is None:
            return "there are no PostgreSQL binaries here (on Debian: apt-get install postgresql)"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
