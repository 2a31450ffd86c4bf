"""What can be optimised in crews and agents, and copies of them with a rollout's values."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crewai import Crew, Flow, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.tools import BaseTool

from agentlightning.adapters import resource_of
from agentlightning.agents import Tunable, TunableKind
from agentlightning.errors import TargetError
from agentlightning.types import ModelEndpoint, PromptTemplate, Resource
from lightning_adapter_crewai._describe import NAME, agent_name

_OF_AGENT: Final = {
    "role": TunableKind.ROLE,
    "goal": TunableKind.GOAL,
    "backstory": TunableKind.BACKSTORY,
}
_OF_TASK: Final = {"description": TunableKind.INSTRUCTION, "expected_output": TunableKind.INSTRUCTION}


@dataclass(frozen=True, slots=True)
class _Part:
    """An agent or a task, and what its tunables' names begin with."""

    key: str
    value: Any
    kinds: Mapping[str, TunableKind]
    place: str


def tunables(root: object) -> list[Tunable]:
    """Texts, models and tools of a crew or an agent. Names come from roles and from tasks' names or places."""
    found: list[Tunable] = []
    for part in _parts(root):
        for field, kind in part.kinds.items():
            value = str(getattr(part.value, f"_original_{field}", None) or getattr(part.value, field))
            found.append(
                Tunable(name=f"{part.key}.{field}", kind=kind, value=value, place=f"{part.place}, {field}")
            )
        if model := getattr(getattr(part.value, "llm", None), "model", None):
            found.append(
                Tunable(
                    name=f"{part.key}.model",
                    kind=TunableKind.MODEL,
                    value=str(model),
                    place=f"{part.place}, llm",
                )
            )
        for name, tool in _own_tools(part.value):
            found.append(
                Tunable(
                    name=f"{part.key}.tools.{name}",
                    kind=TunableKind.TOOL_DESCRIPTION,
                    value=tool.description,
                    place=f"{part.place}, tool {tool.name!r}",
                )
            )
    return found


def copy_with(root: object, resources: Mapping[str, Resource]) -> object:
    """A copy that runs by itself, with the values that resources have for it."""
    if isinstance(root, Flow):
        return _fresh_flow(root)
    twin = _fresh_crew(root) if isinstance(root, Crew) else _fresh_agent(root)  # type: ignore[arg-type]
    replaced: dict[tuple[int, int], BaseTool] = {}
    for part, other in zip(_parts(root), _parts(twin), strict=True):
        _fill_texts(other, part.key, resources)
        _fill_tools(other, part.key, resources, replaced)
    return twin


def _parts(root: object) -> Iterator[_Part]:
    keys: set[str] = set()
    agents: list[BaseAgent] = []
    if isinstance(root, BaseAgent):
        agents = [root]
    elif isinstance(root, Crew):
        agents = _agents(root)
    for agent in agents:
        name = agent_name(agent)
        yield _Part(_unique(_slug(name), keys), agent, _OF_AGENT, f"agent {name!r}")
    for number, task in enumerate(root.tasks if isinstance(root, Crew) else (), start=1):
        name = f"task_{_slug(task.name)}" if task.name else f"task_{number}"
        yield _Part(_unique(name, keys), task, _OF_TASK, f"task {task.name or number!r}")


def _agents(crew: Crew) -> list[BaseAgent]:
    """Those of the crew, its manager, and those that only tasks have; each once."""
    given = [*crew.agents, crew.manager_agent, *(task.agent for task in crew.tasks)]
    return list({id(agent): agent for agent in given if agent is not None}.values())


def _own_tools(part: BaseAgent | Task) -> list[tuple[str, BaseTool]]:
    """Tools by name, of a task without those of its agent."""
    inherited = {id(tool) for tool in getattr(getattr(part, "agent", None), "tools", None) or ()}
    return [(_slug(tool.name), tool) for tool in part.tools or () if id(tool) not in inherited]


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_") or "agent"


def _unique(key: str, keys: set[str]) -> str:
    """The key, or with a number: agents and tasks of a crew have an order."""
    number, found = 1, key
    while found in keys:
        number += 1
        found = f"{key}_{number}"
    keys.add(found)
    return found


def _fresh_agent(agent: BaseAgent) -> BaseAgent:
    twin: BaseAgent = agent.copy()
    object.__setattr__(twin, NAME, agent_name(agent))
    return twin


def _fresh_crew(crew: Crew) -> Crew:
    """`Crew.copy`, and what that mixes up or leaves out: agents of one role, tasks of one text, tasks' own agents."""
    members = {id(agent) for agent in (*crew.agents, crew.manager_agent)}
    outsiders = [agent for agent in _agents(crew) if id(agent) not in members]
    agents = [*crew.agents, *outsiders]
    whole = crew.model_copy(update={"agents": agents}) if outsiders else crew
    twin = whole.copy()
    pairs = list(zip(agents, twin.agents, strict=True))
    if crew.manager_agent is not None and twin.manager_agent is not None:
        pairs.append((crew.manager_agent, twin.manager_agent))
    twins = {id(agent): other for agent, other in pairs}
    for agent, other in pairs:
        object.__setattr__(other, NAME, agent_name(agent))
    for task, other_task in zip(crew.tasks, twin.tasks, strict=True):
        other_task.agent = twins.get(id(task.agent))
    other_tasks = {id(task): other for task, other in zip(crew.tasks, twin.tasks, strict=True)}
    for task, other_task in zip(crew.tasks, twin.tasks, strict=True):
        if isinstance(task.context, list) and isinstance(other_task.context, list):
            pairs_of_context = zip(task.context, other_task.context, strict=True)
            other_task.context = [other_tasks.get(id(one), other) for one, other in pairs_of_context]
    if outsiders:
        twin.agents = twin.agents[: len(crew.agents)]
    return twin


def _fresh_flow(flow: Flow[Any]) -> Flow[Any]:
    """A flow remembers its runs, and CrewAI has no copy of one: another of its class, constructed alike."""
    kind = type(flow)
    given = {name: getattr(flow, name) for name in flow.model_fields_set & kind.model_fields.keys()}
    try:
        twin = kind(**given)
    except TypeError as error:
        raise TargetError(
            f"the flow {kind.__name__!r} cannot be made anew for a rollout ({error}); "
            "train a function that constructs it and kicks it off instead"
        ) from error
    for name in flow.__dict__.keys() - kind.model_fields.keys():
        object.__setattr__(twin, name, flow.__dict__[name])
    return twin


def _fill_texts(part: _Part, key: str, resources: Mapping[str, Resource]) -> None:
    for field in part.kinds:
        if prompt := resource_of(resources, f"{key}.{field}", PromptTemplate):
            setattr(part.value, field, prompt.template)
    if endpoint := resource_of(resources, f"{key}.model", ModelEndpoint):
        part.value.llm = _llm(part.value.llm, endpoint)


def _fill_tools(
    part: _Part, key: str, resources: Mapping[str, Resource], replaced: dict[tuple[int, int], BaseTool]
) -> None:
    """Describes tools anew. `replaced` is by agent and tool: an agent's come first, its tasks have them, too."""
    agent = id(part.value if isinstance(part.value, BaseAgent) else part.value.agent)
    for name, tool in _own_tools(part.value):
        if prompt := resource_of(resources, f"{key}.tools.{name}", PromptTemplate):
            replaced[agent, id(tool)] = tool.model_copy(update={"description": prompt.template})
    tools = part.value.tools or []
    if any((agent, id(tool)) in replaced for tool in tools):
        part.value.tools = [replaced.get((agent, id(tool)), tool) for tool in tools]


def _llm(llm: Any, endpoint: ModelEndpoint) -> Any:  # noqa: ANN401 - CrewAI takes several kinds
    twin = copy.copy(llm)
    for field in ("model", "temperature", "max_tokens"):
        if (value := getattr(endpoint, field)) is not None:
            setattr(twin, field, value)
    return twin
