"""Are a spec's requirements met? A small reading of PEP 508 and PEP 440, since `packaging` is not a dependency."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_REQUIREMENT: Final = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^]]*\])?\s*\(?(?P<bounds>[^;)]*)\)?\s*(;.*)?"
)
_BOUND: Final = re.compile(r"\s*(?P<operator>>=|<=|==|!=|~=|>|<)\s*(?P<version>[0-9][^\s,]*)\s*")
_COMPARE: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def unmet(requirement: str) -> str:
    """Says why a requirement is not met: `torch>=2 (found 1.13)`; empty if it is.

    Environment markers are ignored, and of a version only its release numbers count.

    Raises:
        ValueError: It is not a requirement.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} is not a requirement such as 'torch>=2,<3'")
    try:
        installed = version(match["name"])
    except PackageNotFoundError:
        return f"{requirement} (not installed)"
    bounds = [bound for bound in match["bounds"].split(",") if bound.strip()]
    if all(_satisfies(installed, bound) for bound in bounds):
        return ""
    return f"{requirement} (found {installed})"


def _satisfies(installed: str, bound: str) -> bool:
    match = _BOUND.fullmatch(bound)
    if match is None:
        raise ValueError(f"{bound!r} is not a version bound such as '>=2'")
    wanted, wildcard = _release(match["version"]), match["version"].endswith(".*")
    if match["operator"] == "~=":
        return _padded(operator.ge, _release(installed), wanted) and _starts_with(installed, wanted[:-1])
    if wildcard:
        return _starts_with(installed, wanted) is (match["operator"] == "==")
    return _padded(_COMPARE[match["operator"]], _release(installed), wanted)


def _starts_with(installed: str, prefix: tuple[int, ...]) -> bool:
    return _release(installed)[: len(prefix)] == prefix


def _padded(
    compare: Callable[[tuple[int, ...], tuple[int, ...]], bool], left: tuple[int, ...], right: tuple[int, ...]
) -> bool:
    """Compares releases of different length as PEP 440 does: 2 is 2.0."""
    length = max(len(left), len(right))
    return compare(left + (0,) * (length - len(left)), right + (0,) * (length - len(right)))


def _release(text: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(number) for number in match[0].split(".")) if match else ()
