"""A spool: calls on disk that a server could not take, in order, surviving the process.

Each frame is its length, its CRC-32 and its payload; what a crash cut off at the end is no frame. A spool is locked by
the process that writes it, so that another takes over only what a dead one left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlightning.errors import LimitExceeded, StoreUnavailable

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
        except OSError:
            os.close(self._file)
            raise
        self.size_bytes = 0
        for offset, payload in self._whole():
            self.size_bytes = offset + _FRAME.size + len(payload)
        os.ftruncate(self._file, self.size_bytes)
        self._read_from = 0

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
        return next((payload for _, payload in self._whole(self._read_from)), None)

    def payloads(self) -> Iterator[bytes]:
        """All payloads that wait."""
        return (payload for _, payload in self._whole(self._read_from))

    def drop_first(self) -> None:
        """The first payload is delivered; with the last one, the file becomes empty."""
        payload = self.first()
        if payload is None:
            return
        self._read_from += _FRAME.size + len(payload)
        if self._read_from == self.size_bytes:
            os.ftruncate(self._file, 0)
            self.size_bytes = self._read_from = 0

    def close(self) -> None:
        """Gives it up, and deletes it if it is empty. What was delivered before may be delivered again: it is known."""
        if self.empty:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _whole(self, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Frames that are whole, with their offsets."""
        end = os.fstat(self._file).st_size
        while offset + _FRAME.size <= end:
            length, checksum = _FRAME.unpack(os.pread(self._file, _FRAME.size, offset))
            payload = os.pread(self._file, length, offset + _FRAME.size)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                return
            yield offset, payload
            offset += _FRAME.size + length


def new_spool(folder: Path, *, most_bytes: int) -> Spool:
    """A spool of this process."""
    return Spool(folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}", most_bytes=most_bytes)


def left_spools(folder: Path, *, most_bytes: int) -> Iterator[Spool]:
    """Spools that dead processes left, taken over."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            yield Spool(path, most_bytes=most_bytes)
        except OSError:  # its process lives, or another was faster
            continue
