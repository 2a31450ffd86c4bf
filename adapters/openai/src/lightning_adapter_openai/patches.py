"""Functions and attributes of a framework that are replaced until they are put back: what instrumentors are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import wrapt

__all__ = ["Wrapper", "each_subclass", "replace", "wrap"]

Wrapper = Callable[..., object]
"""Called with the function, bound to what it was called on; that object; the positional and the keyword arguments."""


def wrap(undo: ExitStack, owner: type | ModuleType, name: str, wrapper: Wrapper) -> None:
    """Wraps a function; below somebody else's wrapper ours stays in the end, and does nothing.

    Args:
        undo: Puts the function back when it is closed.
        owner: Its class or module; where it is inherited, the base class that has it is changed.
        name: What it is called there.
        wrapper: What is called instead.
    """
    places = owner.__mro__ if isinstance(owner, type) else (owner,)
    place = next(place for place in places if name in vars(place))
    active = [True]
    undo.callback(active.clear)
    replace(
        undo, place, name, wrapt.FunctionWrapper(vars(place)[name], wrapper, enabled=lambda: bool(active))
    )


def replace(undo: ExitStack, owner: object, name: str, new: object) -> None:
    """Sets an attribute of a class, module or object; if somebody else has set it since, it stays theirs."""
    original = vars(owner)[name]
    setattr(owner, name, new)

    def put_back() -> None:
        if vars(owner).get(name) is new:
            setattr(owner, name, original)

    undo.callback(put_back)


def each_subclass(undo: ExitStack, base: type[Any], visit: Callable[[type[Any]], None]) -> None:
    """Calls `visit` with every class below a base, and with those that are still to be defined as soon as they are.

    Args:
        undo: Ends it when it is closed.
        base: Has no `__init_subclass__` of its own.
        visit: Called once for each class.
    """
    for kind in list(_subclasses(base)):
        visit(kind)

    def init_subclass(cls: type[Any], **kwargs: object) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        visit(cls)

    base.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment, arg-type]
    undo.callback(delattr, base, "__init_subclass__")


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for found in kind.__subclasses__():
        yield found
        yield from _subclasses(found)
