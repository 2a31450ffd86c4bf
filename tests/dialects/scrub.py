"""Takes out of a recording what another run or machine would have written differently."""

from __future__ import annotations

import re
from typing import Any

HEX = {"traceId": 32, "spanId": 16, "parentSpanId": 16}
TIMES = {"startTimeUnixNano", "endTimeUnixNano", "timeUnixNano"}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SERVER = re.compile(r"127\.0\.0\.1:\d+")
TRACEBACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000


def scrubbed(request: Any) -> Any:
    """A request with ids and times counted from the start, and without ports and tracebacks."""
    ids: dict[str, int] = {}
    times = {
        time: START_NS + place * STEP_NS for place, time in enumerate(sorted(set(_times(request)), key=int))
    }
    uuids: dict[str, str] = {}

    def uuid(found: re.Match[str]) -> str:
        return uuids.setdefault(found[0], f"00000000-0000-4000-8000-{len(uuids) + 1:012d}")

    def walk(value: Any, key: str = "") -> Any:
        match value:
            case dict():
                return {name: walk(inner, name) for name, inner in value.items()}
            case list():
                return [walk(inner) for inner in value if not _telltale(inner)]
            case str() if key in HEX:
                number = ids.setdefault(value, len(ids) + 1) if value.strip("0") else 0
                return f"{number:0{HEX[key]}x}"
            case str() if key in TIMES:
                return str(times[value])
            case str():
                return TRACEBACK.sub("[traceback]", SERVER.sub("127.0.0.1", UUID.sub(uuid, value)))
            case float():
                return value if value == 0.5 else 0.001  # a setting, or a duration
            case _:
                return value

    return walk(request)


def _times(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [str(inner) for key, inner in value.items() if key in TIMES]
        return own + [time for inner in value.values() for time in _times(inner)]
    return [time for inner in value for time in _times(inner)] if isinstance(value, list) else []


def _telltale(value: Any) -> bool:
    """Whether an attribute tells nothing but where the recording was made."""
    return isinstance(value, dict) and value.get("key") == "exception.stacktrace"
