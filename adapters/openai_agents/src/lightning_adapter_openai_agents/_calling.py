"""Agents as functions of a task."""

from __future__ import annotations

from typing import cast

from agents import Agent, Runner, TResponseInputItem

from agentlightning.calling import conversation, output_data
from agentlightning.types import Json


async def call(agent: Agent[object], task: Json) -> Json:
    """Runs an agent, and returns what it ends with: a text, or the fields of its output type."""
    asked = cast("str | list[TResponseInputItem]", conversation(task))
    result = await Runner.run(agent, asked)
    return output_data(result.final_output)
