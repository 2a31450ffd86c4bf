"""Calls an agent once: traced, bound by its adapters, sync or async, and graded afterwards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from typing import cast

from agentlightning.agents import Adapter, AgentFunction, unknown_agent
from agentlightning.capture import RolloutContext, rollout_span
from agentlightning.types import Json, check_rewards

GraderResult = float | Mapping[str, float] | None
Grader = Callable[[Json, Json], GraderResult | Awaitable[GraderResult]]
"""Turns task and output into a reward, rewards by dimension, or None where it has no opinion."""


class Execution:
    """How one agent is called.

    Args:
        agent: A function of its task, or an object that one of the adapters accepts.
        adapters: All that capture and bind; the first that accepts the agent makes it callable.
        concurrency: Threads for sync agents.

    Raises:
        TargetError: The agent is no function and no adapter accepts it.
    """

    def __init__(self, agent: object, *, adapters: Sequence[Adapter], concurrency: int) -> None:
        self._agent = agent
        self._adapters = adapters
        self._owner = next((adapter for adapter in adapters if adapter.accepts(agent)), None)
        if self._owner is None and not callable(agent):
            raise unknown_agent(agent, adapters)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="agl-agent")

    def close(self) -> None:
        """Lets go of its threads; sync agents that still run are left to end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, task: Json, *, context: RolloutContext) -> Json:
        """Runs the agent inside the rollout; what it raises gets out untouched."""
        with rollout_span(context, task=task), ExitStack() as bindings:
            agent = self._agent
            for adapter in self._adapters:
                agent = bindings.enter_context(adapter.bind(agent, context))
            function = self._owner.as_function(agent) if self._owner else cast("AgentFunction", agent)
            if any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
                return await cast("Awaitable[Json]", function(task))
            result = await asyncio.get_running_loop().run_in_executor(
                self._threads, copy_context().run, function, task
            )
            return await result if inspect.isawaitable(result) else result


async def grade(graders: Sequence[Grader], *, task: Json, output: Json) -> dict[str, float]:
    """Rewards by dimension: from the graders, else from the output if it is a number or a dict of numbers.

    Raises:
        InvalidReward: A reward is not a finite number.
    """
    rewards: dict[str, float] = {}
    for grader in graders:
        result = grader(task, output)
        if inspect.isawaitable(result):
            result = await result
        if result is not None:
            rewards |= check_rewards(result)
    if not graders and isinstance(output, int | float) and not isinstance(output, bool):
        rewards = check_rewards(output)
    return rewards
