"""What became of each installed plugin, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PluginState(StrEnum):
    """What became of an installed plugin."""

    LOADED = "loaded"
    DISABLED = "disabled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStatus:
    """An installed plugin, for listings.

    Attributes:
        distribution: Distribution that installed it; empty if it was registered by hand.
        hooks: Names of the hooks it implements.
        provides: What it registered, such as `algorithm lightningrl`.
        reason: Why it is not loaded.
        seconds: Time its import and its register hooks took.
    """

    name: str
    distribution: str
    version: str
    status: PluginState
    hooks: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    reason: str = ""
    seconds: float = 0.0


def described(status: PluginStatus) -> str:
    """A plugin with where it comes from."""
    return f"{status.name!r} from {status.distribution or 'this process'!r}"


def brief(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
