"""Opening a SQLite file: folder, pragmas, schema."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import Final, Literal, TypeAlias

from agentlightning.errors import StoreUnavailable
from agentlightning.store._sqlite_errors import primary_code, unavailable
from agentlightning.store._sqlite_schema import migrate

Durability: TypeAlias = Literal["normal", "full"]

PATIENCE_S: Final = 15.0
"""How long another process may hold the write lock before a write is refused."""

_NAP_S: Final = (0.0005, 0.004)  # between tries; drawn, so that processes take turns
_PAGE_BYTES: Final = 4096  # every page that a commit touches is written, and summed up, whole


def open_writer(path: Path, *, durability: Durability, patience_s: float) -> sqlite3.Connection:
    """Opens or creates a file for writing, with its schema up to date.

    Raises:
        StoreUnavailable: It cannot be opened, is not ours, or is newer than this version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the folder of store file {str(path)!r} cannot be made ({error}); name a writable place"
        ) from error
    connection: sqlite3.Connection | None = None
    try:
        settled_bytes = _settled_bytes(path)
        connection = _connect(path)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # new files only
        patiently(connection, "PRAGMA journal_mode = WAL", patience_s=patience_s)
        connection.execute(f"PRAGMA synchronous = {durability}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer's thread sees to it
        connection.execute("PRAGMA journal_size_limit = 0")  # so that the log's size tells what is in it
        patiently(connection, "BEGIN IMMEDIATE", patience_s=patience_s)
        _check_length(connection, settled_bytes, path=path)
        migrate(connection, path=path)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _close(connection)
        raise unavailable(error, path=str(path)) from error
    except OSError as error:
        _close(connection)
        raise StoreUnavailable(
            f"store file {str(path)!r} cannot be copied aside before its migration ({error}); free some space"
        ) from error
    except StoreUnavailable:
        _close(connection)
        raise
    return connection


def _settled_bytes(path: Path) -> int:
    """The length of a file that has no log; 0 for others, whose rest may be in the log."""
    # asked of the folder: closing the file, wherever in this process, would drop SQLite's locks on it
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size if path.is_file() and not (log.exists() and log.stat().st_size) else 0


def _check_length(connection: sqlite3.Connection, settled_bytes: int, *, path: Path) -> None:
    """Refuses a file that ends in the middle of a page, whose rest SQLite would read as zeros."""
    if settled_bytes % connection.execute("PRAGMA page_size").fetchone()[0]:
        raise StoreUnavailable(
            f"store file {str(path)!r}: it is damaged: its last page was cut off; restore a copy, or save what"
            " `sqlite3 FILE .recover` finds"
        )


def open_reader(path: Path) -> sqlite3.Connection:
    """Opens a file that the writer has opened, for reading.

    Raises:
        StoreUnavailable: It cannot be opened.
    """
    try:
        connection = _connect(path, timeout_s=PATIENCE_S)
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        raise unavailable(error, path=str(path)) from error
    return connection


def patiently(connection: sqlite3.Connection, statement: str, *, patience_s: float) -> None:
    """Executes a statement that needs the write lock, taking turns with other processes.

    SQLite's own waiting backs off to 100 ms, which starves whoever has waited longest.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        else:
            return
        time.sleep(random.uniform(*_NAP_S))


def _connect(path: Path, *, timeout_s: float = 0.0) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
