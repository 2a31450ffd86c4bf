"""Agents and teams as functions of a task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from autogen_agentchat.base import TaskResult, TaskRunner
from autogen_agentchat.messages import BaseChatMessage, StopMessage, StructuredMessage, TextMessage
from autogen_core import CancellationToken
from autogen_core.tools import Workbench

from agentlightning.calling import conversation
from agentlightning.types import Json


async def call(root: object, task: Json, *, workbenches: Sequence[Workbench]) -> Json:
    """Runs an agent or a team, and returns its last message.

    Cancelling it cancels the model call and the tools under way: a team runs in tasks of its own, which the framework
    lets finish.

    Args:
        root: The agent or team.
        task: What it is asked.
        workbenches: Stopped afterwards, where the run has started them.
    """
    runner = cast("TaskRunner", root)
    token = CancellationToken()
    running = asyncio.ensure_future(runner.run(task=_asked(task), cancellation_token=token))
    try:
        return _answer(await asyncio.shield(running))
    except asyncio.CancelledError:
        token.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise
    finally:
        for workbench in workbenches:
            if getattr(workbench, "_actor", None) is not None:
                await workbench.stop()


def _asked(task: Json) -> str | list[BaseChatMessage]:
    given = conversation(task)
    if isinstance(given, str):
        return given
    return [
        TextMessage(content=str(one.get("content") or ""), source=str(one.get("name") or one["role"]))
        for one in given
    ]


def _answer(result: TaskResult) -> Json:
    said = [message for message in result.messages if isinstance(message, BaseChatMessage)]
    # A graph ends with a message of its manager that it has ended.
    last = next((message for message in reversed(said) if not isinstance(message, StopMessage)), None)
    if isinstance(last, StructuredMessage):
        return cast("Json", last.content.model_dump(mode="json"))
    return last.to_text() if last is not None else None
