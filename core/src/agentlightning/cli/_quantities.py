"""Durations and sizes as people write them: `30d`, `10GB`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from agentlightning.errors import ConfigError

_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_SECONDS: Final[Mapping[str, float]] = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_BYTES: Final[Mapping[str, float]] = {
    "b": 1,
    **{f"{letter}b": 1000 ** (power + 1) for power, letter in enumerate("kmgt")},
    **{f"{letter}ib": 1024 ** (power + 1) for power, letter in enumerate("kmgt")},
}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `15min`, `12h`, `30d` or `2w`.

    Raises:
        ConfigError: It is none.
    """
    return _parsed(text, _SECONDS, what="a duration", example="30d, 12h, 15min or 90s")


def parse_size(text: str) -> int:
    """Bytes of a size such as `10GB` (of 1000) or `512MiB` (of 1024).

    Raises:
        ConfigError: It is none.
    """
    return int(_parsed(text, _BYTES, what="a size", example="10GB, 512MiB or 0B"))


def size_text(size_bytes: float) -> str:
    """A size as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return (
                f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 10 else f"{size_bytes:.1f} {unit}"
            )
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _parsed(text: str, units: Mapping[str, float], *, what: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{text!r} is not {what} with its unit; write it such as {example}")
    found = float(match[1]) * unit
    if not math.isfinite(found):
        raise ConfigError(f"{text!r} is larger than anything that can be; write it such as {example}")
    return found
