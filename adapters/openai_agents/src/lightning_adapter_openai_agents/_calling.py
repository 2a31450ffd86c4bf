"""Agents as functions of a task."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import cast

import msgspec
from agents import Agent, Runner, TResponseInputItem
from pydantic import BaseModel

from agentlightning.types import Json


async def call(agent: Agent[object], task: Json) -> Json:
    """Runs an agent, and returns what it ends with: a text, or the fields of its output type."""
    result = await Runner.run(agent, _input(task))
    return _plain(result.final_output)


def _input(task: Json) -> str | list[TResponseInputItem]:
    given = task.get("messages") if isinstance(task, dict) else task
    if isinstance(given, list) and given and all(isinstance(one, dict) and "role" in one for one in given):
        return cast("list[TResponseInputItem]", list(given))
    return task if isinstance(task, str) else msgspec.json.encode(task).decode()


def _plain(output: object) -> Json:
    if isinstance(output, BaseModel):
        return cast("Json", output.model_dump(mode="json"))
    if is_dataclass(output) or isinstance(output, dict | list | tuple | str | int | float | bool | None):
        return cast("Json", msgspec.to_builtins(output, enc_hook=_plain))
    return str(output)
