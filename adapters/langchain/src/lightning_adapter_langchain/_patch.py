"""A function of a class or module that is wrapped until it is put back."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], object]
"""Gets the function, the object that it was called on, and its arguments."""


class Patch:
    """Wraps `owner.name`.

    Args:
        owner: The class or module; of a class also a base that has the function.
    """

    def __init__(self, owner: type | ModuleType, name: str, wrapper: Wrapper) -> None:
        places = owner.__mro__ if isinstance(owner, type) else (owner,)
        self._owner = next(place for place in places if name in vars(place))
        self._name = name
        self._original = vars(self._owner)[name]
        self._active = True
        self._patched = wrapt.FunctionWrapper(self._original, wrapper, enabled=lambda: self._active)
        setattr(self._owner, name, self._patched)

    def undo(self) -> None:
        """Puts the original back; below somebody else's wrapper ours stays, and does nothing."""
        self._active = False
        if vars(self._owner).get(self._name) is self._patched:
            setattr(self._owner, self._name, self._original)
