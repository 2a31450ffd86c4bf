"""How adapters call agents: a task as a conversation, and an output as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from agentlightning.types import Json

__all__ = ["conversation", "described", "output_data"]


def conversation(task: Json) -> str | list[dict[str, Json]]:
    """What an agent is asked: messages with role and content, or a text.

    Messages are the task itself or what it has under `messages`; a task that is neither a text nor messages is asked
    as JSON text.
    """
    given = task.get("messages") if isinstance(task, dict) else task
    if isinstance(given, list) and given and all(isinstance(one, dict) and "role" in one for one in given):
        return cast("list[dict[str, Json]]", list(given))
    return task if isinstance(task, str) else msgspec.json.encode(task).decode()


def output_data(output: object, *, convert: Callable[[object], object] | None = None) -> Json:
    """An agent's output as data.

    Args:
        output: Whatever the agent ends with.
        convert: Makes data of objects that are no plain data and no dataclasses, wherever they are; else `described`.
    """
    return cast("Json", msgspec.to_builtins(output, enc_hook=convert or described))


def described(value: object) -> object:
    """The fields of a model of pydantic; of anything else its text."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) and not isinstance(value, type) else str(value)
