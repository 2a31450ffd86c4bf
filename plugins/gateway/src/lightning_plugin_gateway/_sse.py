"""Server-sent events, cut anywhere."""

from __future__ import annotations

import re

_LONGEST_EVENT = 16 * 2**20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event is larger than a parser keeps."""


class SseParser:
    """Turns bytes into the data of events.

    Takes LF, CRLF and lone CR, `data:` with and without a space, several data lines, comments, other fields, a byte
    order mark, and a last event without its blank line. Time is linear in the bytes, however they are cut.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete. Raises `EventTooLong` before it keeps too much."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        if not data:
            return []
        self._after_return = data.endswith(b"\r")
        *ended, rest = _LINE_END.split(data)
        events = []
        for line in ended:
            event = self._end_line(line)
            if event is not None:
                events.append(event)
        self._line.append(rest)
        self._size += len(rest)
        if self._size > _LONGEST_EVENT:
            raise EventTooLong(f"an event of more than {_LONGEST_EVENT} bytes")
        return events

    def close(self) -> bytes | None:
        """The event that was not ended by a blank line, if any; what was cut short may be half an event."""
        event = self._end_line(b"")
        return event if event is not None else self._end_line(b"")

    def _end_line(self, end: bytes) -> bytes | None:
        line = b"".join([*self._line, end])
        self._line = []
        if self._first:
            self._first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._size += len(end) + 1
        if line or not self._data:
            return None
        event = b"\n".join(self._data)
        self._data = []
        self._size = 0
        return event
