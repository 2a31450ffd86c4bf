"""Tool calls of a stream, put together from fragments in whatever order they come."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text
from lightning_plugin_gateway.wires._wire import Body


class CallFragment:
    """A tool call, as much of it as has come.

    Attributes:
        place: Its index among the calls.
        ident: Its id; empty if it has none.
        name: Of its tool.
    """

    def __init__(self, *, place: int) -> None:
        self.place = place
        self.ident = ""
        self.name = ""
        self._arguments: list[str] = []
        self._taken = 0

    @property
    def arguments(self) -> str:
        """What has come of its arguments."""
        return "".join(self._arguments)

    @property
    def begun(self) -> bool:
        """Its name is known: arguments have come, and they come after it."""
        return bool(self.name and self._arguments)

    def add(self, part: Body) -> None:
        """Takes the next fragment."""
        function = as_object(part.get("function"))
        self.ident = as_text(part.get("id")) or self.ident
        self.name += as_text(function.get("name"))
        if piece := as_text(function.get("arguments")):
            self._arguments.append(piece)

    def take(self) -> str:
        """What has come of its arguments since the last time."""
        piece = "".join(self._arguments[self._taken :])
        self._taken = len(self._arguments)
        return piece


class CallFragments:
    """The tool calls of an answer, in the order of their indices."""

    def __init__(self) -> None:
        self._calls: dict[int, CallFragment] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, parts: Json) -> None:
        """Takes the `tool_calls` of the next delta."""
        for place, part in enumerate(as_objects(parts)):
            index = part.get("index")
            known = index if isinstance(index, int) else place
            if known not in self._calls:
                self._calls[known] = CallFragment(place=known)
            self._calls[known].add(part)

    def whole(self) -> list[CallFragment]:
        """All of them."""
        return [self._calls[index] for index in sorted(self._calls)]
