"""What can be optimised in agents, and how a rollout's values get in: looked up when an agent runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import cast
from weakref import WeakKeyDictionary

from agent_framework import FunctionTool, RawAgent

from agentlightning.adapters import resource_of
from agentlightning.agents import Tunable, TunableKind
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.errors import TargetError
from agentlightning.types import ModelEndpoint, PromptTemplate, Resource
from lightning_adapter_agent_framework._objects import parts

_Agent = RawAgent[dict[str, object]]
_UNNAMED = "agent"

_bound: WeakKeyDictionary[RolloutContext, WeakKeyDictionary[_Agent, _Agent]] = WeakKeyDictionary()


def tunables(root: object) -> list[Tunable]:
    """Instructions, model and tool descriptions of each agent in an object.

    Raises:
        TargetError: Two agents have one name.
    """
    found: dict[str, Tunable] = {}
    agents = [cast("_Agent", part) for part in parts(root) if isinstance(part, RawAgent)]
    for agent in agents:
        for tunable in _of(agent):
            if tunable.name in found:
                raise TargetError(
                    f"two agents in {type(root).__name__!r} are called {_name(agent)!r}; give each a name of its own, "
                    "so that what is tuned can be told apart"
                )
            found[tunable.name] = tunable
    return list(found.values())


def run(
    method: Callable[..., object], agent: _Agent, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    """Wraps a `run` of agents: inside of a rollout with values for it, a twin runs in the agent's place."""
    context = current_rollout()
    twin = agent if context is None or not context.resources else _twin(agent, context)
    if twin is agent:
        return method(*args, **kwargs)
    return method.__func__(twin, *args, **kwargs)  # type: ignore[attr-defined]


def _name(agent: _Agent) -> str:
    return agent.name or _UNNAMED


def _of(agent: _Agent) -> list[Tunable]:
    name, options = _name(agent), agent.default_options
    found: list[Tunable] = []

    def add(what: str, kind: TunableKind, value: object, place: str) -> None:
        if isinstance(value, str):
            found.append(
                Tunable(name=f"{name}.{what}", kind=kind, value=value, place=f"agent {name!r}, {place}")
            )

    add("instructions", TunableKind.INSTRUCTION, options.get("instructions"), "instructions")
    add("model", TunableKind.MODEL, options.get("model"), "model")
    for tool in _tools(agent):
        add(f"tools.{tool.name}", TunableKind.TOOL_DESCRIPTION, tool.description, f"tool {tool.name!r}")
    return found


def _tools(agent: _Agent) -> list[FunctionTool]:
    tools = cast("list[object]", agent.default_options.get("tools") or [])
    return [tool for tool in tools if isinstance(tool, FunctionTool)]


def _twin(agent: _Agent, context: RolloutContext) -> _Agent:
    twins = _bound.setdefault(context, WeakKeyDictionary())
    twin = twins.get(agent)
    if twin is None:
        twin = _with(agent, context.resources)
        if twin is not agent:
            twins[agent] = twins[twin] = twin
    return twin


def _with(agent: _Agent, resources: Mapping[str, Resource]) -> _Agent:
    """The agent with the values that resources have for it; itself where they have none."""
    name = _name(agent)
    changes: dict[str, object] = {}
    if prompt := resource_of(resources, f"{name}.instructions", PromptTemplate):
        changes["instructions"] = prompt.template
    if endpoint := resource_of(resources, f"{name}.model", ModelEndpoint):
        wanted = {
            "model": endpoint.model,
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
        }
        changes |= {key: value for key, value in wanted.items() if value is not None}
    descriptions = {
        tool.name: prompt.template
        for tool in _tools(agent)
        if (prompt := resource_of(resources, f"{name}.tools.{tool.name}", PromptTemplate))
    }
    if descriptions:
        tools = cast("list[object]", agent.default_options["tools"])
        changes["tools"] = [_described(tool, descriptions) for tool in tools]
    if not changes:
        return agent
    twin = copy.copy(agent)
    twin.default_options = {**agent.default_options, **changes}
    return twin


def _described(tool: object, descriptions: Mapping[str, str]) -> object:
    if not isinstance(tool, FunctionTool) or tool.name not in descriptions:
        return tool
    twin = copy.copy(tool)
    twin.description = descriptions[tool.name]
    return twin
