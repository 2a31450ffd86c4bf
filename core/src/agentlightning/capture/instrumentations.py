"""Who else is at work in a process: instrumentations of other packages, and those of our own for SDKs below."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["at_work", "is_wrapped"]

_OTHERS: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation.")


def is_wrapped(method: object) -> bool:
    """Whether an instrumentation of somebody else has wrapped a function.

    Both families wrap with wrapt, whose wrappers know the function that they call.
    """
    while (wrapper := getattr(method, "_self_wrapper", None)) is not None:
        if str(getattr(wrapper, "__module__", "")).startswith(_OTHERS):
            return True
        method = getattr(method, "__wrapped__", None)
    return False


def at_work(package: str, instrumentor: str) -> bool:
    """Whether an instrumentor of a package instruments this process; a package that is not loaded has none that does.

    Args:
        package: Import name of the package that exports it.
        instrumentor: Name of its class.
    """
    found = sys.modules.get(package)
    return found is not None and bool(getattr(found, instrumentor)().is_instrumented_by_opentelemetry)
