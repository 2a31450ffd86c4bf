"""What is inside of an agent or a team, wherever it keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autogen_agentchat.base import ChatAgent, Team
from autogen_core import SingleThreadedAgentRuntime
from autogen_core.memory import Memory
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import BaseTool, Workbench

_ROOTS = (ChatAgent, Team)
"""What can be called with a task."""

_OPEN = (*_ROOTS, BaseTool, ChatCompletionContext, Memory, Workbench)
_CLOSED = (str, bytes, int, float, bool, type, type(None), ChatCompletionClient, SingleThreadedAgentRuntime)


def parts(root: object) -> Iterator[object]:
    """Everything of the framework in an object, itself included, each once, in the order in which it is found."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        if not isinstance(found, Mapping | list | tuple | set | frozenset):
            yield found
        waiting += _inside(found)


def _inside(found: object) -> list[object]:
    if isinstance(found, _CLOSED):
        return []
    if isinstance(found, Mapping):
        return list(found.values())
    if isinstance(found, list | tuple | set | frozenset):
        return list(found)
    known = isinstance(found, _OPEN) or type(found).__module__.startswith("autogen_")
    return list(getattr(found, "__dict__", {}).values()) if known else []
