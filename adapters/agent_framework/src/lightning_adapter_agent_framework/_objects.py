"""Agents inside of an object of the framework, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType

from agent_framework import BaseAgent, BaseChatClient, Executor, FunctionTool, RawAgent, Workflow
from agent_framework._mcp import MCPTool
from agent_framework._workflows._functional import FunctionalWorkflow

_ROOTS = (BaseAgent, Workflow, FunctionalWorkflow)
"""What can be called with a task."""

_LEAVES = (str, bytes, int, float, bool, type, type(None))
_SHARED = (RawAgent, BaseChatClient, MCPTool, FunctionTool)


def parts(root: object) -> Iterator[object]:
    """The agents, chat clients and tools in an object, each once, in the order in which they are found."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen or isinstance(found, _LEAVES):
            continue
        seen.add(id(found))
        if isinstance(found, _SHARED):
            yield found
        waiting += _inside(found)


def _inside(found: object) -> list[object]:
    if isinstance(found, Mapping):
        return list(found.values())
    if isinstance(found, list | tuple | set | frozenset):
        return list(found)
    if isinstance(found, FunctionTool):
        return [found.func]
    if isinstance(found, FunctionType):  # an agent as a tool is a function that closes over it
        return [cell.cell_contents for cell in found.__closure__ or () if _filled(cell)]
    if isinstance(found, BaseChatClient | MCPTool):
        return []
    known = isinstance(found, (*_ROOTS, Executor)) or type(found).__module__.startswith("agent_framework")
    return list(getattr(found, "__dict__", {}).values()) if known else []


def _filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018 - asking is the only way to know
    except ValueError:
        return False
    return True
