"""What LangChain's agents are made of: LangGraph's graphs, as far as an agent's span needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context

from lightning_adapter_langchain._scope import astepwise, stepwise

if TYPE_CHECKING:
    from lightning_adapter_langchain._reader import ChainStart

_NODE: Final = "graph:step:"
_STEP: Final = "seq:step:"
_NAMESPACE: Final = "langgraph_checkpoint_ns"
_ENTERING: Final = "agl-langchain-entering"
_AGENTS: Final = frozenset({"langchain.agents.factory", "langgraph.prebuilt.chat_agent_executor"})
_UNNAMED: Final = "LangGraph"
_Method = Callable[..., Any]
Graph = Any
"""A `Pregel`, of which this package only knows what it looks like."""


class _Entering:
    """A graph whose code has begun to run; its first callback is the one that is about itself."""

    def __init__(self, graph: object) -> None:
        self.graph: object = graph

    def take(self) -> object:
        graph, self.graph = self.graph, None
        return graph


def stream(method: _Method, graph: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Wraps `Pregel.stream`, which `invoke` also calls."""
    return stepwise(method(*args, **kwargs), {_ENTERING: _Entering(graph)})


def astream(method: _Method, graph: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Wraps `Pregel.astream`, which `ainvoke` also calls."""
    return astepwise(method(*args, **kwargs), {_ENTERING: _Entering(graph)})


def entered() -> Graph:
    """The graph that the first callback after its start is about; None for all others."""
    found = otel_context.get_value(_ENTERING)
    return found.take() if isinstance(found, _Entering) else None


def installed() -> list[tuple[type, ModuleType]]:
    """`Pregel`, and the module with its runnables, if LangGraph is installed."""
    if find_spec("langgraph") is None:
        return []
    return [(import_module("langgraph.pregel").Pregel, import_module("langgraph._internal._runnable"))]


def graph_of_node(
    name: str | None, tags: Sequence[str], metadata: Mapping[str, Any], *, above: ChainStart | None
) -> Graph:
    """The graph that a run is a node of; None if it is none. A task of a function is a node below another."""
    if above is None:
        return None
    own_place = metadata.get(_NAMESPACE) != above.metadata.get(_NAMESPACE)
    if any(tag.startswith(_NODE) for tag in tags) or (own_place and name == metadata.get("langgraph_node")):
        return above.graph or above.inside
    return None


def is_branch(tags: Sequence[str]) -> bool:
    """Whether a run inside of a node is one of the steps that follow the node's own."""
    return any(tag.startswith(_STEP) and tag != f"{_STEP}1" for tag in tags)


def is_agent(graph: Graph) -> bool:
    """Whether a graph is an agent of `create_agent`, whose nodes are its parts and no agents themselves."""
    return any(_module(node) in _AGENTS for node in getattr(graph, "nodes", {}).values())


def agent_name(graph: Graph) -> str:
    """The name that its author gave an agent; empty if none."""
    name = getattr(graph, "name", None)
    return "" if name in (None, _UNNAMED) else str(name)


def place(metadata: Mapping[str, Any], name: str) -> str:
    """Where a node is, such as `research/search` for a node of a subgraph."""
    namespace = str(metadata.get(_NAMESPACE) or name)
    return "/".join(part.partition(":")[0] for part in namespace.split("|"))


def _module(node: object) -> str:
    bound = getattr(node, "bound", None)
    function = getattr(bound, "func", None) or getattr(bound, "afunc", None)
    return str(getattr(function, "__module__", ""))
