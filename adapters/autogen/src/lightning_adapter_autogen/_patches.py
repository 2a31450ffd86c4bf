"""Attributes of the framework that are replaced until they are put back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import wrapt

Wrapper = Callable[..., object]
"""Called by wrapt with the original bound, its instance, its positional and its keyword arguments."""


def wrap(undo: ExitStack, owner: type, name: str, wrapper: Wrapper) -> None:
    """Wraps a method of a class; below somebody else's wrapper ours stays in the end, and does nothing."""
    active = [True]
    undo.callback(active.clear)
    wrapped = wrapt.FunctionWrapper(owner.__dict__[name], wrapper, enabled=lambda: bool(active))
    replace(undo, owner, name, wrapped)


def replace(undo: ExitStack, owner: object, name: str, new: object) -> None:
    """Sets an attribute."""
    original = vars(owner)[name]
    setattr(owner, name, new)

    def put_back() -> None:
        if vars(owner).get(name) is new:
            setattr(owner, name, original)

    undo.callback(put_back)
