"""What can be optimised in agents and teams, and how a rollout's values get into its copy of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.teams import BaseGroupChat, SelectorGroupChat
from autogen_core.models import ChatCompletionClient, SystemMessage
from autogen_core.tools import StaticWorkbench, ToolOverride, Workbench

from agentlightning.adapters import resource_of
from agentlightning.agents import Tunable, TunableKind
from agentlightning.errors import TargetError
from agentlightning.types import ModelEndpoint, PromptTemplate, Resource
from lightning_adapter_autogen._objects import parts


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tunable is: what it says, and how a copy is given another value."""

    tunable: Tunable
    put: Callable[[str], None]


def tunables(root: object) -> list[Tunable]:
    """System message, description, model and tools of each agent in an object, and how a team selects speakers.

    Raises:
        TargetError: Two agents or teams have one name.
    """
    return [place.tunable for place in _places(root).values()]


def apply(root: object, resources: Mapping[str, Resource]) -> None:
    """Puts resources into a rollout's copy.

    Raises:
        ConfigError: A resource is of a kind that does not fit its tunable.
    """
    if not resources:
        return
    for name, place in _places(root).items():
        if place.tunable.kind is not TunableKind.MODEL and (
            prompt := resource_of(resources, name, PromptTemplate)
        ):
            place.put(prompt.template)
    for owner in parts(root):
        if isinstance(owner, ChatAgent | Team):
            _put_model(owner, resources)
        if isinstance(owner, AssistantAgent):
            _put_descriptions(owner, resources)
        if isinstance(owner, BaseGroupChat):  # it has noted what its participants are for
            owner._participant_descriptions = [one.description for one in owner._participants]


def _places(root: object) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    for owner in parts(root):
        for place in _of(owner):
            if place.tunable.name in found:
                name = place.tunable.name.partition(".")[0]
                raise TargetError(
                    f"two agents in {type(root).__name__!r} are called {name!r}; give each a name of its own, "
                    "so that what is tuned can be told apart"
                )
            found[place.tunable.name] = place
    return found


def _of(owner: object) -> Iterator[_Place]:
    if not isinstance(owner, ChatAgent | Team):
        return
    name, what = owner.name, "agent" if isinstance(owner, ChatAgent) else "team"

    def at(key: str, kind: TunableKind, value: object, put: Callable[[str], None]) -> Iterator[_Place]:
        if isinstance(value, str):
            where = f"{what} {name!r}, {key.replace('.', ' ', 1)}"
            yield _Place(tunable=Tunable(name=f"{name}.{key}", kind=kind, value=value, place=where), put=put)

    def attribute(key: str) -> Callable[[str], None]:
        return lambda value: setattr(owner, key, value)

    if isinstance(owner, AssistantAgent):
        system = owner._system_messages[0].content if owner._system_messages else None
        yield from at("system_message", TunableKind.SYSTEM_PROMPT, system, _system_message(owner))
    if isinstance(owner, ChatAgent) and hasattr(owner, "_description"):
        yield from at("description", TunableKind.ROLE, owner.description, attribute("_description"))
    if isinstance(owner, SelectorGroupChat):
        prompt = owner._selector_prompt
        yield from at("selector_prompt", TunableKind.INSTRUCTION, prompt, attribute("_selector_prompt"))
    client = getattr(owner, "_model_client", None)
    yield from at("model", TunableKind.MODEL, _model(client), lambda _: None)
    if isinstance(owner, AssistantAgent):
        for tool, description in _described(owner).items():
            yield from at(f"tools.{tool}", TunableKind.TOOL_DESCRIPTION, description, lambda _: None)
        for place, handoff in enumerate(owner._handoff_tools):
            key, put = f"handoffs.{handoff.name}", _handoff(owner, place)
            yield from at(key, TunableKind.TOOL_DESCRIPTION, handoff.description, put)


def _system_message(agent: AssistantAgent) -> Callable[[str], None]:
    def put(value: str) -> None:
        agent._system_messages = [SystemMessage(content=value)]

    return put


def _handoff(agent: AssistantAgent, place: int) -> Callable[[str], None]:
    def put(value: str) -> None:
        tool = copy.copy(agent._handoff_tools[place])
        tool._description = value
        agent._handoff_tools[place] = tool

    return put


def _described(agent: AssistantAgent) -> dict[str, str]:
    """Descriptions of an agent's tools, as far as they are known before a tool server is asked."""
    found: dict[str, str] = {}
    for workbench in agent._workbench:
        if isinstance(workbench, StaticWorkbench):
            found |= {tool.name: tool.description for tool in workbench._tools}
        overrides: Mapping[str, ToolOverride] = getattr(workbench, "_tool_overrides", {})
        found |= {name: one.description for name, one in overrides.items() if one.description is not None}
    return found


def _put_descriptions(agent: AssistantAgent, resources: Mapping[str, Resource]) -> None:
    """Also of tools that are not known yet: a tool server lists them when it runs."""
    prefix = f"{agent.name}.tools."
    wanted = {
        name.removeprefix(prefix): prompt.template
        for name in resources
        if name.startswith(prefix) and (prompt := resource_of(resources, name, PromptTemplate))
    }
    if wanted:
        agent._workbench = [_overridden(workbench, wanted) for workbench in agent._workbench]


def _overridden(workbench: Workbench, wanted: Mapping[str, str]) -> Workbench:
    overrides: dict[str, ToolOverride] | None = getattr(workbench, "_tool_overrides", None)
    if overrides is None:
        return workbench
    changed = {
        name: ToolOverride(name=overrides[name].name if name in overrides else None, description=description)
        for name, description in wanted.items()
    }
    twin = _twin(workbench)
    twin._tool_overrides = {**overrides, **changed}  # type: ignore[attr-defined]
    if getattr(workbench, "_actor", None) is not None:
        twin._actor_loop = None  # type: ignore[attr-defined]  # it must not stop the server that it shares
    return twin


def _model(client: object) -> object:
    arguments = getattr(client, "_create_args", None)
    return arguments.get("model") if isinstance(arguments, Mapping) else None


def _put_model(owner: ChatAgent | Team, resources: Mapping[str, Resource]) -> None:
    client = getattr(owner, "_model_client", None)
    endpoint = resource_of(resources, f"{owner.name}.model", ModelEndpoint)
    if endpoint is None or not isinstance(client, ChatCompletionClient) or _model(client) is None:
        return
    wanted = {
        "model": endpoint.model,
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
    }
    twin = _twin(client)
    changes = {name: value for name, value in wanted.items() if value is not None}
    twin._create_args = {**client._create_args, **changes}  # type: ignore[attr-defined]
    twin.__dict__["_resolved_model"] = None  # what the old one's answers are expected to name
    owner._model_client = twin  # type: ignore[union-attr]


_Object = TypeVar("_Object")


def _twin(found: _Object) -> _Object:
    """A shallow copy; `copy.copy` would have a model client make its connections anew."""
    twin = object.__new__(type(found))
    twin.__dict__.update(found.__dict__)
    return twin
