"""What can be optimised in an agent and those that it can reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agents import Agent, FunctionTool, Handoff

from agentlightning.agents import Tunable, TunableKind
from agentlightning.errors import TargetError
from lightning_adapter_openai_agents._binding import handoffs_of

_Agent = Agent[Any]


def tunables(root: object) -> list[Tunable]:
    """Instructions, model, tools and handoffs of each agent; empty for what is none.

    Raises:
        TargetError: Two agents, or two handoffs of one, have one name.
    """
    found: dict[str, Tunable] = {}
    for agent in _reached(root):
        for tunable in _of(agent):
            if tunable.name in found:
                raise TargetError(
                    f"{tunable.name!r} is there twice among the agents that can be reached; give each agent, tool "
                    "and handoff a name of its own, so that what is tuned can be told apart"
                )
            found[tunable.name] = tunable
    return list(found.values())


def _reached(root: object) -> Iterator[_Agent]:
    """The agent, and those it hands off to or uses as tools, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        agent = waiting.pop(0)
        if id(agent) in seen or not isinstance(agent, Agent):
            continue
        seen.add(id(agent))
        yield agent
        waiting += [_target(one) if isinstance(one, Handoff) else one for one in agent.handoffs]
        waiting += [tool._agent_instance for tool in agent.tools if isinstance(tool, FunctionTool)]


def _target(given: Handoff[Any, Any]) -> object:
    return given._agent_ref() if given._agent_ref is not None else None


def _of(agent: _Agent) -> Iterator[Tunable]:
    name = agent.name

    def at(key: str, kind: TunableKind, value: object, place: str) -> Iterator[Tunable]:
        if isinstance(value, str):
            yield Tunable(name=f"{name}.{key}", kind=kind, value=value, place=f"agent {name!r}, {place}")

    yield from at("instructions", TunableKind.INSTRUCTION, agent.instructions, "instructions")
    model = (
        agent.model if agent.model is None or isinstance(agent.model, str) else vars(agent.model).get("model")
    )
    yield from at("model", TunableKind.MODEL, model, "model")
    for tool in agent.tools:
        if isinstance(tool, FunctionTool):
            kind, place = TunableKind.TOOL_DESCRIPTION, f"tool {tool.name!r}"
            yield from at(f"tools.{tool.name}", kind, tool.description, place)
    for given in handoffs_of(agent):
        kind, place = TunableKind.TOOL_DESCRIPTION, f"handoff {given.tool_name!r}"
        yield from at(f"handoffs.{given.tool_name}", kind, given.tool_description, place)
