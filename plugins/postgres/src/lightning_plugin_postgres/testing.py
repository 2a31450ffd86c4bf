"""`PostgresServer`: a real PostgreSQL in a temporary folder, for tests."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg

__all__ = ["PostgresServer", "find_binaries"]

_ACCOUNTS = ("postgres", "nobody")  # who runs it when we are root, which PostgreSQL refuses


def find_binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, as `pg_config` or the search path knows it; None where there is none."""
    config = shutil.which("pg_config")
    if config is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folder = Path(said.stdout.strip())
        if said.returncode == 0 and (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class PostgresServer:
    """Starts a server on a free port of the loopback interface; leaving the context stops it and deletes its data.

    Args:
        fsync: Also survives a loss of power, as a server in production does; without it, it survives any death of
            its processes, and is faster.
        settings: Further server settings, such as `{"max_connections": "20"}`.

    Raises:
        RuntimeError: There are no PostgreSQL binaries, or the server does not start.
    """

    def __init__(self, *, fsync: bool = False, settings: dict[str, str] | None = None) -> None:
        self.user = "agl"
        self.password = secrets.token_hex(8)
        self.port = 0
        self._fsync = fsync
        self._settings = settings or {}
        self._folder = Path()
        self._binaries = Path()

    def __enter__(self) -> Self:
        """Creates a database cluster and starts it."""
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError(
                "there is no PostgreSQL here; install it (on Debian: apt-get install postgresql)"
            )
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="agl-pg-"))
        self.port = _free_port()
        try:
            self._initialise()
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it and deletes its data."""
        self._control("stop", "-m", "immediate", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, *, schema: str | None = None, database: str = "postgres") -> str:
        """The URL of a store on this server, with the tables in a schema."""
        query = "" if schema is None else f"?schema={schema}"
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}{query}"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection of a superuser that commits each statement."""
        return psycopg.connect(self.url(), autocommit=True)

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        self._control("start")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops it: `fast` rolls back what is open, `immediate` is a crash."""
        self._control("stop", "-m", mode)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops and starts it."""
        self.stop(mode)
        self.start()

    def kill_backends(self) -> int:
        """Ends all connections of clients but the one that does it; how many."""
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        return len(rows)

    def _initialise(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self.password)
        self._give(self._folder, secret)
        self._run(
            "initdb", "--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256",
            f"--username={self.user}", f"--pwfile={secret}", "-D", str(self._folder / "data"),
        )  # fmt: skip
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "fsync": "on" if self._fsync else "off",
            **self._settings,
        }
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _control(self, *arguments: str, check: bool = True) -> None:
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", *arguments, check=check)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        account = _account()
        # the server keeps the handles that it inherits: a pipe would never end
        with (self._folder / "output").open("w+") as output:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                user=account,
                group=None if account is None else pwd.getpwnam(account).pw_gid,
                extra_groups=None if account is None else [],
            )
            output.seek(0)
            said = output.read()
        if check and done.returncode:
            raise RuntimeError(
                f"{program} {arguments[-1]!r} failed with code {done.returncode}: {said.strip()}"
            )

    def _give(self, *paths: Path) -> None:
        account = _account()
        if account is not None:
            for path in paths:
                shutil.chown(path, user=account)


def _account() -> str | None:
    """Whom to run the server as; None is ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    usable: Sequence[str] = [name for name in _ACCOUNTS if name in known]
    if not usable:
        raise RuntimeError(
            f"PostgreSQL refuses to run as root, and there is no account {' or '.join(_ACCOUNTS)}"
        )
    return usable[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
