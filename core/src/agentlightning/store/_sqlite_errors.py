"""SQLite's errors as ours: one line that says what happened and what to do."""

from __future__ import annotations

import sqlite3
from typing import Final

from agentlightning.errors import StoreUnavailable

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and go on: nothing acknowledged was lost",
    sqlite3.SQLITE_IOERR: "reading or writing failed; check the disk and its quota: nothing acknowledged was lost",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its folder writable, or name another file",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder is writable, or name another file",
    sqlite3.SQLITE_PERM: "access is denied; make the file and its folder writable, or name another file",
    sqlite3.SQLITE_AUTH: "access is denied; make the file and its folder writable, or name another file",
    sqlite3.SQLITE_BUSY: "another process keeps it locked; stop that process, or wait and try again",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked; stop that process, or wait and try again",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database; name another file",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a copy, or save what `sqlite3 FILE .recover` finds",
}


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code without the extension; -1 if there is none."""
    code: int = getattr(error, "sqlite_errorcode", -1)
    return code if code < 0 else code & 0xFF


def unavailable(error: sqlite3.Error, *, path: str) -> StoreUnavailable:
    """The error to raise in place of SQLite's."""
    advice = _ADVICE.get(primary_code(error), "SQLite refused; see the cause")
    return StoreUnavailable(f"store file {path!r}: {advice} ({error})")
