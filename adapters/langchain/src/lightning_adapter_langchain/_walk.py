"""What is in an agent: the prompts, tools and models that its objects, functions and nodes refer to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Final, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.prompts import HumanMessagePromptTemplate, SystemMessagePromptTemplate
from langchain_core.prompts.message import BaseMessagePromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from lightning_adapter_langchain._graphs import Graph, agent_name, is_agent

_FRAMEWORK: Final = frozenset({"langchain", "langchain_core", "langchain_classic", "langgraph"})
_MIDDLEWARE: Final = "AgentMiddleware"
_LEAVES: Final = (str, bytes, int, float, type, type(None))
_START: Final = "__start__"


@dataclass(frozen=True, slots=True)
class ToolText:
    """A tool as a model is told of it."""

    name: str
    description: str


Template = SystemMessagePromptTemplate | HumanMessagePromptTemplate
Part = SystemMessage | Template | BaseTool | ToolText | BaseChatModel


@dataclass(frozen=True, slots=True)
class Found:
    """A part of an agent.

    Attributes:
        owner: The agent or node that it was found in; empty is the whole.
        place: How it was reached.
    """

    part: Part
    owner: str
    place: str


def parts(agent: object) -> list[Found]:
    """The parts of an agent, in the order in which its author put them."""
    return list(_Walk().of(agent))


class _Reached(NamedTuple):
    found: object
    owner: str
    place: str


class _Walk:
    """Follows references. A thing is looked into once for each owner, so that what owners share is seen as shared."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], object] = {}

    def of(self, root: object) -> Iterator[Found]:
        waiting = deque([_Reached(root, "", type(root).__name__)])
        while waiting:
            here = waiting.popleft()
            found = here.found
            if (id(found), here.owner) in self._seen or isinstance(found, _LEAVES):
                continue
            self._seen[id(found), here.owner] = found  # kept: an id is only one's own as long as one lives
            if isinstance(found, SystemMessage | Template | BaseTool | BaseChatModel):
                yield Found(found, here.owner, here.place)
            if (tool := _tool(found)) is not None:
                yield Found(tool, here.owner, here.place)
            waiting.extend(_nodes(here) if _is_graph(found) else _next(here))


def _next(here: _Reached) -> Iterator[_Reached]:
    for name, inner in _inside(here.found):
        place = f"{here.place}{name}" if name.startswith("[") else f"{here.place}.{name}"
        yield _Reached(inner, here.owner, place)


def _nodes(here: _Reached) -> Iterator[_Reached]:
    graph: Graph = here.found
    owner = agent_name(graph) or here.owner or "agent"
    for name, node in graph.nodes.items():
        if name != _START:
            place = f"{here.place}.nodes[{name!r}]"
            yield _Reached(node.bound, owner if is_agent(graph) else name, place)


def _is_graph(found: object) -> bool:
    return any(
        f"{kind.__module__}.{kind.__name__}" == "langgraph.pregel.main.Pregel" for kind in type(found).__mro__
    )


def _inside(found: object) -> Iterator[tuple[str, object]]:
    if isinstance(found, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in found.items())
    elif isinstance(found, list | tuple):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(found))
    elif isinstance(found, partial):
        yield from (("func", found.func), ("args", found.args), ("keywords", found.keywords))
    elif isinstance(found, MethodType):
        yield from vars(found.__self__).items() if hasattr(found.__self__, "__dict__") else ()
        yield "__func__", found.__func__
    elif isinstance(found, FunctionType):
        yield from _referred(found)
    elif isinstance(found, Runnable | BaseMessagePromptTemplate) or _is_middleware(found):
        yield from vars(found).items()


def _is_middleware(found: object) -> bool:
    return any(kind.__name__ == _MIDDLEWARE for kind in type(found).__mro__)


def _referred(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What a function closes over, and which of its module's objects it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    if str(function.__module__).partition(".")[0] not in _FRAMEWORK:
        for name in _names(function.__code__):
            if name in function.__globals__:
                yield name, function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _tool(found: object) -> ToolText | None:
    """A tool that is left as its definition, such as in `model.bind_tools(...)`."""
    if not isinstance(found, dict) or found.get("type") != "function":
        return None
    told = found.get("function")
    if not isinstance(told, dict) or not isinstance(told.get("description"), str):
        return None
    return ToolText(str(told.get("name")), told["description"])
