"""A rollout's own copy of an agent or a team, which remember what was said to them."""

from __future__ import annotations

import asyncio
import copy

from autogen_agentchat.teams import BaseGroupChat
from autogen_core import SingleThreadedAgentRuntime
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import BaseTool, BaseToolWithState, Workbench
from opentelemetry.trace import NoOpTracerProvider

from agentlightning.errors import TargetError
from lightning_adapter_autogen._objects import parts

_SDKS = frozenset({"anthropic", "openai"})


def fresh(root: object) -> object:
    """Copies an agent or a team with its state: messages, memory, conditions of termination.

    Model clients, function tools and running tool servers are shared. A team's runtime is new, and so is its thread.

    Raises:
        TargetError: It has something that cannot be copied, or a runtime that it shares with others.
    """
    found = list(parts(root))
    memo: dict[int, object] = {id(part): part for part in found if _shared(part)}
    for part in found:
        if isinstance(part, BaseGroupChat):
            if not part._embedded_runtime:
                raise TargetError(
                    f"the team {part.name!r} was given a runtime, whose agents cannot be copied for a rollout; "
                    "construct it without `runtime`, or train a function that constructs and runs it"
                )
            memo[id(part._runtime)] = _quiet_runtime()
            memo[id(part._output_message_queue)] = asyncio.Queue()
    try:
        twin = copy.deepcopy(root, memo)
    except (TypeError, RuntimeError, copy.Error) as error:
        raise TargetError(
            f"{getattr(root, 'name', root)!r} cannot be copied for a rollout ({error}); "
            "train a function that constructs and runs it"
        ) from error
    for part in parts(twin):
        if isinstance(part, BaseGroupChat):
            part._initialized = part._is_running = False
    return twin


def _quiet_runtime() -> SingleThreadedAgentRuntime:
    """A runtime without spans of its own: a dozen for each message, which say nothing of agents."""
    return SingleThreadedAgentRuntime(ignore_unhandled_exceptions=False, tracer_provider=NoOpTracerProvider())


def startable(root: object) -> tuple[Workbench, ...]:
    """The workbenches of a copy that may start a tool server, which then has to be stopped after the run."""
    found = (part for part in parts(root) if isinstance(part, Workbench))
    return tuple(part for part in found if getattr(part, "_actor", part) is None)


def _shared(part: object) -> bool:
    if isinstance(part, ChatCompletionClient):
        return not hasattr(part, "_current_index")  # a replayed conversation is state
    if isinstance(part, BaseTool):
        return not isinstance(part, BaseToolWithState) and not hasattr(part, "_task_runner")
    if isinstance(part, Workbench):
        return getattr(part, "_actor", None) is not None
    return type(part).__module__.partition(".")[0] in _SDKS
