"""What a command prints: read to the end, kept in part, and shown without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import IO, Final

_PIECE: Final = 65_536
_TAIL_CHARS: Final = 2_000


class Captured:
    """The last of what a stream said.

    Attributes:
        size: Bytes in all, those that were dropped included.
    """

    def __init__(self, *, limit: int) -> None:
        self._kept = bytearray()
        self._limit = limit
        self.size = 0

    def add(self, data: bytes) -> None:
        """Keeps as much of the end as the limit allows."""
        self.size += len(data)
        self._kept += data
        if len(self._kept) > 2 * self._limit:  # not each time: cutting copies
            del self._kept[: -self._limit]

    @property
    def complete(self) -> bool:
        """Whether nothing was dropped."""
        return self.size <= self._limit

    def content(self) -> bytes:
        """What is kept, at most `limit` bytes."""
        return bytes(self._kept[-self._limit :])

    def tail(self, secrets: Sequence[str]) -> str:
        """Its last words for people, with secrets struck out."""
        text = hide(self.content().decode("utf-8", "replace"), secrets).strip()
        return text if len(text) <= _TAIL_CHARS else f"…{text[-_TAIL_CHARS:]}"


def hide(text: str, secrets: Sequence[str]) -> str:
    """The text with secrets struck out."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


async def drain(pipe: IO[bytes], into: Captured) -> None:
    """Reads a pipe to its end and closes it: a full pipe would hold the command up."""
    reader = asyncio.StreamReader(limit=_PIECE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while data := await reader.read(_PIECE):
            into.add(data)
    finally:
        transport.close()
