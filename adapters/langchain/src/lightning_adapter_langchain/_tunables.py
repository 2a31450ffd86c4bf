"""Tunables of an agent: their names and values, and what a rollout's resources make of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.prompts import HumanMessagePromptTemplate, PromptTemplate, SystemMessagePromptTemplate
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agentlightning.agents import Tunable, TunableKind
from agentlightning.errors import ConfigError
from agentlightning.types import ModelEndpoint, Resource
from agentlightning.types import PromptTemplate as Prompt
from lightning_adapter_langchain._swaps import Swaps
from lightning_adapter_langchain._walk import Found, Part, Template, ToolText, parts

_MODEL_NAMES = ("model_name", "model", "model_id")
_PLACEHOLDER: Final = re.compile(r"\{+[^{}]*\}+")


@dataclass(frozen=True, slots=True)
class Named:
    """A tunable and the parts of the agent that have its value."""

    tunable: Tunable
    parts: tuple[Part, ...]


def tunables(agent: object) -> list[Named]:
    """What can be tuned in an agent, in the order in which its author put it."""
    groups: dict[object, list[Found]] = {}
    for found in parts(agent):
        if _value(found.part) is not None:
            groups.setdefault(_identity(found.part), []).append(found)
    taken: dict[str, int] = {}
    named: list[Named] = []
    for group in groups.values():
        kind, value = _value(group[0].part) or (TunableKind.INSTRUCTION, "")
        name = _name(group, kind)
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        tunable = Tunable(name=name, kind=kind, value=value, place=group[0].place)
        named.append(Named(tunable, tuple(found.part for found in group)))
    return named


def swaps_of(agent: object, resources: Mapping[str, Resource]) -> Swaps | None:
    """What a rollout's resources replace in an agent; None if nothing.

    Raises:
        ConfigError: A resource has the name of a tunable, but cannot take its place.
    """
    known = tunables(agent) if resources else []
    wanted = [(named, resources[named.tunable.name]) for named in known if named.tunable.name in resources]
    if not wanted:
        return None
    swaps = Swaps()
    for named, resource in wanted:
        for part in named.parts:
            _put(swaps, part, resource, name=named.tunable.name)
    swaps.by_text = _by_text(known, resources)
    return swaps


def _put(swaps: Swaps, part: Part, resource: Resource, *, name: str) -> None:
    if isinstance(part, BaseChatModel):
        swaps.models.append((part, _settings(resource, name)))
        return
    text = _text(resource, name)
    if isinstance(part, SystemMessage):
        swaps.texts.append((part, text))
    elif isinstance(part, Template):
        _check(part, text, name)
        swaps.templates.append((part, text))
    elif isinstance(part, BaseTool):
        told = convert_to_openai_tool(part)["function"]
        swaps.descriptions[told["name"], told.get("description", "")] = text
    elif isinstance(part, ToolText):
        swaps.descriptions[part.name, part.description] = text


def _by_text(known: list[Named], resources: Mapping[str, Resource]) -> dict[str, str]:
    """New texts by old ones, where all system messages with the old one get the same new one."""
    found: dict[str, set[str | None]] = {}
    for named in known:
        if isinstance(named.parts[0], SystemMessage):
            resource = resources.get(named.tunable.name)
            text = resource.template if isinstance(resource, Prompt) else None
            found.setdefault(named.tunable.value, set()).add(text)
    return {
        old: text for old, texts in found.items() if len(texts) == 1 and (text := texts.pop()) is not None
    }


def _identity(part: Part) -> object:
    match part:
        case ToolText():
            return part
        case BaseTool():
            return ToolText(part.name, part.description)
        case _:
            return id(part)


def _name(group: list[Found], kind: TunableKind) -> str:
    part = group[0].part
    if isinstance(part, BaseTool | ToolText):
        return f"{part.name}.description"
    owners = {found.owner for found in group}
    owner = owners.pop() if len(owners) == 1 else ""
    return f"{owner}.{kind}" if owner else str(kind)


def _value(part: Part) -> tuple[TunableKind, str] | None:
    """Kind and value of a part; None for what is no text."""
    match part:
        case SystemMessage(content=str() as text):
            return TunableKind.SYSTEM_PROMPT, text
        case SystemMessagePromptTemplate(prompt=PromptTemplate(template=text)):
            return TunableKind.SYSTEM_PROMPT, text
        case HumanMessagePromptTemplate(prompt=PromptTemplate() as prompt) if _instructs(prompt):
            return TunableKind.INSTRUCTION, prompt.template
        case BaseTool(description=text) | ToolText(description=text):
            return TunableKind.TOOL_DESCRIPTION, text
        case BaseChatModel():
            names = (getattr(part, name, None) for name in _MODEL_NAMES)
            name = next((name for name in names if isinstance(name, str) and name), None)
            return None if name is None else (TunableKind.MODEL, name)
        case _:
            return None


def _instructs(prompt: PromptTemplate) -> bool:
    """Whether it says what to do with what it is filled with: no bare input, and no message that is always the same."""
    return bool(prompt.input_variables) and any(map(str.isalpha, _PLACEHOLDER.sub("", prompt.template)))


def _text(resource: Resource, name: str) -> str:
    if isinstance(resource, Prompt):
        return resource.template
    raise ConfigError(
        f"resource {name!r} takes the place of a text of the agent, but is of kind {resource.kind!r}; make it a prompt"
    )


def _settings(resource: Resource, name: str) -> dict[str, object]:
    if isinstance(resource, Prompt):
        return {"model": resource.template}
    if isinstance(resource, ModelEndpoint):
        sampling = {"temperature": resource.temperature, "max_tokens": resource.max_tokens}
        given = {key: value for key, value in sampling.items() if value is not None}
        return {"model": resource.model, **given}
    raise ConfigError(
        f"resource {name!r} takes the place of a model of the agent, but is of kind {resource.kind!r}; "
        "make it a model, or a prompt with the model's name"
    )


def _check(part: Template, text: str, name: str) -> None:
    old = part.prompt
    assert isinstance(old, PromptTemplate)  # noqa: S101 - others have no value
    new = PromptTemplate.from_template(text, template_format=old.template_format)
    known = {*old.input_variables, *old.partial_variables}
    if unknown := sorted(set(new.input_variables) - known):
        raise ConfigError(
            f"resource {name!r} has the placeholders {unknown!r}, but the agent fills in {sorted(known)!r}; "
            "use those, and write {{ and }} for braces"
        )
