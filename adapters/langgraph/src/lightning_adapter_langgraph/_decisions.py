"""Where a graph goes next, as decisions: conditional edges, and commands of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from weakref import WeakSet

import msgspec
from langgraph.errors import ParentCommand
from langgraph.graph._branch import BranchSpec
from langgraph.types import Command, Send
from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from agentlightning import semconv
from lightning_adapter_langchain import ChainEnd, ChainStart, is_agent

_LAMBDA: Final = "<lambda>"
_FRAMEWORK: Final = frozenset({"langchain", "langgraph"})


class Decisions:
    """Reads graphs: a node is an agent, and where it leads is decided.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._told: WeakSet[BaseException] = WeakSet()

    def attributes(self, start: ChainStart) -> Mapping[str, str]:
        """The node's name is its agent's, unless the node is a part of an agent."""
        if start.inside is None or is_agent(start.inside):
            return {}
        return {semconv.AGENT_NAME: start.name}

    def ended(self, end: ChainEnd) -> None:
        """A node has ended, maybe with a command; one for the parent graph goes through all that is in between."""
        if end.start.inside is None:
            return
        if isinstance(end.error, ParentCommand):
            if end.error not in self._told:
                self._told.add(end.error)
                self._decide(end, end.error.args)
        elif end.error is None:
            found = end.output if isinstance(end.output, list | tuple) else [end.output]
            self._decide(end, [one for one in found if isinstance(one, Command)])

    def branched(self, branch: BranchSpec, result: object, *, node: str, inside: Context | None) -> None:
        """A conditional edge was followed. It is called like its function; a lambda's, like the node that it is of.

        Args:
            branch: The edge.
            result: What its function returned.
            node: Name of the node that it leads from.
            inside: OpenTelemetry context of the node; None is the current one.
        """
        function = getattr(branch.path, "func", None) or getattr(branch.path, "afunc", None)
        if str(getattr(function, "__module__", "")).partition(".")[0] in _FRAMEWORK:
            return  # the inside of a ready-made agent: its model decided
        ends = branch.ends or {}
        wanted = result if isinstance(result, list | tuple) else [result]
        nameless = getattr(function, "__name__", "") == _LAMBDA
        self._record(
            f"{node}.branch" if nameless else str(branch.path.get_name()),
            options=list(dict.fromkeys(map(str, ends.values()))),
            choice=[one.node if isinstance(one, Send) else str(ends.get(one, one)) for one in wanted],
            inside=inside,
        )

    def _decide(self, end: ChainEnd, commands: Iterable[object]) -> None:
        choice: list[str] = []
        for command in commands:
            goto = command.goto if isinstance(command, Command) else ()
            aims = [goto] if isinstance(goto, str | Send) else goto
            choice += [one.node if isinstance(one, Send) else str(one) for one in aims]
        if choice:
            specs = getattr(getattr(end.start.inside, "builder", None), "nodes", {})
            ends = getattr(specs.get(end.start.name), "ends", ()) or ()
            options = [] if end.error else [str(one) for one in ends]
            self._record(f"{end.start.name}.goto", options=options, choice=choice, inside=end.context)

    def _record(self, name: str, *, options: list[str], choice: list[str], inside: Context | None) -> None:
        attributes: dict[str, str | float] = {
            semconv.OPERATION: semconv.OPERATION_DECISION,
            semconv.DECISION_NAME: name,
            semconv.DECISION_CHOICE: _json(choice[0] if len(choice) == 1 else choice),
            semconv.DECISION_PROPENSITY: 1.0,
        }
        if options:
            attributes[semconv.DECISION_OPTIONS] = _json(options)
        self._tracer.start_span(f"decide {name}", inside, attributes=attributes).end()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
