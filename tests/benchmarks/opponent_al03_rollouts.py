"""Agent Lightning 0.3's trainer with an agent that does nothing. Runs in that environment, as a `Worker`.

Its algorithm answers the questions; arguments: number of runners, `shm` (threads that share memory) or `cs` (processes
that talk HTTP), seconds between polls of an idle runner.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import sys
import time
from typing import IO

from answering import answer, open_channel
from noop_agent import solve
from workload import task

import agentlightning as agl

TIMEOUT_S = 120.0


class Agent(agl.LitAgent):
    """Does nothing."""

    def rollout(self, task: object, resources: object, rollout: object) -> float:
        """A reward, at once."""
        return solve(task)


class Answering(agl.Algorithm):
    """Runs rollouts as it is asked to."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        super().__init__()
        self._questions = questions
        self._answers = answers

    async def run(self, train_dataset: object = None, val_dataset: object = None) -> None:
        """Answers until there are no more questions."""
        await self.get_store().add_resources({"prompt": agl.PromptTemplate(template="x", engine="f-string")})
        await self._rollouts(1)  # until runners are up
        answer(self._answers, "ready")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, self._questions.readline):
            question = json.loads(line)
            await asyncio.sleep(question["idle_s"] * random.random())
            answer(self._answers, {"wall_s": await self._rollouts(question["count"])})

    async def _rollouts(self, count: int) -> float:
        """Seconds from asking for rollouts until all have succeeded."""
        store = self.get_store()
        started = time.perf_counter()
        wishes = [agl.EnqueueRolloutRequest(input=task(index), mode="train") for index in range(count)]
        ids = [one.rollout_id for one in await store.enqueue_many_rollouts(wishes)]
        done = await store.wait_for_rollouts(rollout_ids=ids, timeout=TIMEOUT_S)
        taken_s = time.perf_counter() - started
        if [one.status for one in done] != ["succeeded"] * count:
            raise AssertionError(
                f"{count} rollouts were asked for, these ended: {[one.status for one in done]}"
            )
        return taken_s


def main(runners: int, strategy: str, poll_s: float) -> None:
    """Trains until there are no more questions."""
    logging.disable(logging.WARNING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracer = agl.OtelTracer()
    trainer = agl.Trainer(
        n_runners=runners,
        algorithm=Answering(*open_channel()),
        tracer=tracer,
        strategy=(
            agl.SharedMemoryExecutionStrategy(n_runners=runners, main_thread="algorithm")
            if strategy == "shm"
            else agl.ClientServerExecutionStrategy(n_runners=runners, server_port=port)
        ),
        runner=lambda: agl.LitAgentRunner(
            agl.OtelTracer(), poll_interval=poll_s, interval_jitter=min(0.5, poll_s / 2)
        ),
    )
    trainer.fit(Agent(), train_dataset=[task(0)])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
