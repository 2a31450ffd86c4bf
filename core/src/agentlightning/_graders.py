"""Graders that need no model."""

from __future__ import annotations

from collections.abc import Mapping

from agentlightning.errors import ConfigError
from agentlightning.types import Json


def exact_match(task: Json, output: Json) -> float:
    """1 if the output equals the task's `answer`, else 0; texts are compared without outer white space.

    Raises:
        ConfigError: The task has no `answer`.
    """
    if not isinstance(task, Mapping) or "answer" not in task:
        raise ConfigError(
            f"the grader 'exact_match' needs tasks with an 'answer', got {task!r}; name another grader"
        )
    return 1.0 if _plain(output) == _plain(task["answer"]) else 0.0


def _plain(value: Json) -> Json:
    return value.strip() if isinstance(value, str) else value
