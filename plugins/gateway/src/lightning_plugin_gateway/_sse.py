"""Server-sent events, cut anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LONGEST_EVENT = 16 * 2**20
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLong(ValueError):
    """An event is larger than a parser keeps."""


class SseParser:
    """Turns bytes into the data of events.

    Takes LF, CRLF and lone CR, `data:` with and without a space, several data lines, comments, other fields, a byte
    order mark, and a last event without its blank line.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete. Raises `EventTooLong` before it keeps too much."""
        buffer = self._buffer + data
        if self._first and len(buffer) >= 3:
            self._first = False
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        events = []
        start = 0
        for match in _LINE_END.finditer(buffer):
            if match.end() == len(buffer) and match.group() == b"\r":
                break  # maybe the first half of CRLF
            event = self._line(buffer[start : match.start()])
            start = match.end()
            if event is not None:
                events.append(event)
        self._buffer = buffer[start:]
        if len(self._buffer) + self._size > _LONGEST_EVENT:
            raise EventTooLong(f"an event of more than {_LONGEST_EVENT} bytes")
        return events

    def close(self) -> Iterator[bytes]:
        """The event that was not ended by a blank line, if any."""
        for line in (self._buffer.rstrip(b"\r"), b""):
            event = self._line(line)
            if event is not None:
                yield event
        self._buffer = b""

    def _line(self, line: bytes) -> bytes | None:
        if line:
            if line.startswith(b"data:"):
                value = line[5:].removeprefix(b" ")
                self._data.append(value)
                self._size += len(value)
            return None
        if not self._data:
            return None
        event = b"\n".join(self._data)
        self._data = []
        self._size = 0
        return event
