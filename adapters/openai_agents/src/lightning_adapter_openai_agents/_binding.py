"""A rollout's values for agents, looked up when they run; agents themselves stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from agents import Agent, FunctionTool, Handoff, Model, ModelSettings, OpenAIResponsesModel, Tool, handoff
from agents._public_agent import get_public_agent, set_public_agent
from agents.models.openai_responses import OpenAIResponsesWSModel
from agents.run_config import RunConfig
from agents.run_internal.agent_bindings import AgentBindings

from agentlightning.adapters import resource_of
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.types import ModelEndpoint, PromptTemplate, Resource

_Agent = Agent[Any]


class Bindings:
    """The agents that run in the place of others: one for each agent and rollout, gone with the rollout."""

    def __init__(self) -> None:
        self._twins: WeakKeyDictionary[RolloutContext, dict[int, tuple[_Agent, _Agent]]] = WeakKeyDictionary()

    def bind_agent(self, agent: _Agent) -> AgentBindings[Any]:
        """Stands in for `bind_public_agent`: the SDK keeps apart what the user sees and what runs."""
        context = current_rollout()
        if context is None or not context.resources:
            return AgentBindings(public_agent=agent, execution_agent=agent)
        twins = self._twins.setdefault(context, {})
        if id(agent) not in twins:
            twins[id(agent)] = (agent, _with(agent, context.resources))
        return AgentBindings(public_agent=agent, execution_agent=twins[id(agent)][1])


async def get_all_tools(
    method: Callable[..., Awaitable[list[Tool]]], agent: _Agent, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tool]:
    """Wraps `Agent.get_all_tools`, which also asks tool servers."""
    tools = await method(*args, **kwargs)
    context = current_rollout()
    if context is None or not context.resources:
        return tools
    return [_described(tool, get_public_agent(agent).name, context.resources) for tool in tools]


def over_http(get_model: Callable[[_Agent, RunConfig], Model]) -> Callable[[_Agent, RunConfig], Model]:
    """Wraps `get_model`: a rollout's endpoint does not speak through web sockets."""

    def get(agent: _Agent, run_config: RunConfig) -> Model:
        model = get_model(agent, run_config)
        context = current_rollout()
        if context is None or context.endpoint is None or not isinstance(model, OpenAIResponsesWSModel):
            return model
        return OpenAIResponsesModel(model=model.model, openai_client=model._client)

    return get


def handoffs_of(agent: _Agent) -> list[Handoff[Any, Any]]:
    """An agent's handoffs, as the model is shown them."""
    return [one if isinstance(one, Handoff) else handoff(one) for one in agent.handoffs]


def _with(agent: _Agent, resources: Mapping[str, Resource]) -> _Agent:
    """The agent with the values that resources have for it; itself where they have none."""
    changes: dict[str, object] = {}
    if prompt := resource_of(resources, f"{agent.name}.instructions", PromptTemplate):
        changes["instructions"] = prompt.template
    handoffs = [
        _handed(given, shown, agent.name, resources)
        for given, shown in zip(agent.handoffs, handoffs_of(agent), strict=True)
    ]
    if any(new is not old for new, old in zip(handoffs, agent.handoffs, strict=True)):
        changes["handoffs"] = handoffs
    if endpoint := resource_of(resources, f"{agent.name}.model", ModelEndpoint):
        settings = ModelSettings(temperature=endpoint.temperature, max_tokens=endpoint.max_tokens)
        changes["model_settings"] = agent.model_settings.resolve(settings)
        changes["model"] = endpoint.model
        if isinstance(agent.model, Model):
            changes["model"] = copy.copy(agent.model)
            changes["model"].model = endpoint.model  # type: ignore[attr-defined]
    if not changes:
        return agent
    twin = copy.copy(agent)
    for name, value in changes.items():
        setattr(twin, name, value)
    return set_public_agent(twin, agent)


def _handed(
    given: _Agent | Handoff[Any, Any], shown: Handoff[Any, Any], owner: str, resources: Mapping[str, Resource]
) -> _Agent | Handoff[Any, Any]:
    prompt = resource_of(resources, f"{owner}.handoffs.{shown.tool_name}", PromptTemplate)
    if prompt is None:
        return given
    twin = copy.copy(shown)
    twin.tool_description = prompt.template
    return twin


def _described(tool: Tool, owner: str, resources: Mapping[str, Resource]) -> Tool:
    prompt = resource_of(resources, f"{owner}.tools.{tool.name}", PromptTemplate)
    if prompt is None or not isinstance(tool, FunctionTool):
        return tool
    twin = copy.copy(tool)
    twin.description = prompt.template
    return twin
