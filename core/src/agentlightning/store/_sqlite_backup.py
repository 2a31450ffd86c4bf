"""Copies a SQLite file aside before its schema is migrated."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path


def back_up(path: Path, *, version: int) -> Path:
    """Copies what is committed in a file to `FILE.v<version>.bak`, or to the next free name.

    The caller holds the file's write lock. The copy has its name only when it is whole and on disk, and never
    replaces an earlier one.

    Returns:
        Where the copy is.
    """
    unfinished = path.with_name(f"{path.name}.v{version}.part")
    unfinished.unlink(missing_ok=True)  # of a process that was killed: whoever migrates holds the lock
    source = sqlite3.connect(path)
    copy = sqlite3.connect(unfinished)
    try:
        copy.execute("PRAGMA journal_mode = OFF")  # no journal is left behind that would spoil the next copy
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    _sync(unfinished)
    place = next(name for name in _names(path, version) if not name.exists())
    unfinished.rename(place)
    _sync(path.parent)
    return place


def _names(path: Path, version: int) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.v{version}.bak")
    for number in count(2):
        yield path.with_name(f"{path.name}.v{version}.{number}.bak")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
