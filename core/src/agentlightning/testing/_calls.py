"""Calls agents as the runner does: async ones here, sync ones in a thread."""

from __future__ import annotations

import asyncio
import inspect
from typing import cast

from agentlightning.agents import AgentFunction
from agentlightning.types import Json


async def called(function: AgentFunction, task: Json) -> Json:
    """What an agent returns for a task."""
    if inspect.iscoroutinefunction(function):
        return cast("Json", await function(task))
    output = await asyncio.to_thread(function, task)
    return await output if inspect.isawaitable(output) else output
