"""A spool: calls on disk that a server could not take, in order, surviving the process.

Each frame is its length, its CRC-32 and its payload; what a crash cut off at the end is no frame. A spool is locked by
the process that writes it, so that another takes over only what a dead one left.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlightning.errors import LimitExceeded, StoreUnavailable

_log = logging.getLogger(__name__)
_FRAME: Final = struct.Struct("<II")
_SUFFIX: Final = ".spool"


class Spool:
    """One file of frames.

    Attributes:
        size_bytes: What is in it.
    """

    def __init__(self, path: Path, *, most_bytes: int) -> None:
        """Opens or makes it, and locks it.

        Raises:
            BlockingIOError: Another process has it.
            OSError: It cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._most_bytes = most_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_from = 0
            self.size_bytes = 0
            for payload in self.payloads():
                self.size_bytes += _FRAME.size + len(payload)
            self._cut()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._read_from == self.size_bytes

    def put(self, payload: bytes) -> None:
        """Adds a frame; when this returns, it is on disk.

        Raises:
            LimitExceeded: The spool is full.
            StoreUnavailable: The disk is.
        """
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        if self.size_bytes + len(frame) > self._most_bytes:
            raise LimitExceeded(
                f"the spool {str(self._path)!r} is full ({self._most_bytes} bytes) and its server still away;"
                " start the server, or raise spool_mb in the store's URL"
            )
        try:
            written = os.pwrite(self._file, frame, self.size_bytes)
            os.fsync(self._file)
        except OSError as error:
            raise StoreUnavailable(f"the spool {str(self._path)!r} cannot be written: {error}") from error
        if written != len(frame):
            raise StoreUnavailable(f"the spool {str(self._path)!r} cannot be written: the disk is full")
        self.size_bytes += len(frame)

    def first(self) -> bytes | None:
        """The payload that has waited for longest."""
        return next(self.payloads(), None)

    def payloads(self) -> Iterator[bytes]:
        """All payloads that wait."""
        offset, end = self._read_from, os.fstat(self._file).st_size
        while offset + _FRAME.size <= end:
            length, checksum = _FRAME.unpack(os.pread(self._file, _FRAME.size, offset))
            payload = os.pread(self._file, length, offset + _FRAME.size)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                return
            yield payload
            offset += _FRAME.size + length

    def drop(self, payload: bytes) -> None:
        """The first payload is settled; with the last one, the file becomes empty."""
        self._read_from += _FRAME.size + len(payload)
        if self.empty:
            os.ftruncate(self._file, 0)
            self.size_bytes = self._read_from = 0

    def close(self) -> None:
        """Gives it up, and deletes it if it is empty.

        What was delivered before may be delivered again by who takes it over, which changes nothing.
        """
        if self.empty:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _cut(self) -> None:
        """Cuts off what is no whole frame: a process died while it wrote it, before it was acknowledged."""
        surplus = os.fstat(self._file).st_size - self.size_bytes
        if surplus:
            _log.warning("%s ends in %d bytes that are not whole, and are left out", self._path, surplus)
            os.ftruncate(self._file, self.size_bytes)


def new_spool(folder: Path, *, most_bytes: int) -> Spool:
    """A spool of this process."""
    spool = Spool(folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}", most_bytes=most_bytes)
    _sync(folder)  # a file is durable once its name is
    return spool


def left_spool(folder: Path, *, most_bytes: int) -> Spool | None:
    """A spool that a dead process left, taken over; None if there is none."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        try:
            return Spool(path, most_bytes=most_bytes)
        except OSError:  # its process lives, or another was faster
            continue
    return None


def put_aside(path: Path, line: bytes) -> None:
    """Adds a line to a file that only its owner may read; when this returns, it is on disk.

    Raises:
        OSError: It cannot be written.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
