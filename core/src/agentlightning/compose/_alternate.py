"""In turn: each algorithm for some steps, then the next one, round after round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from agentlightning.algorithm import Algorithm, EvaluationReport, TrainingContext
from agentlightning.compose._context import named
from agentlightning.compose._turns import Request, TurnContext, owned
from agentlightning.types import Json, Mode, ResourceSet, Rollout

_STRIDE: Final = 1_000_000_000
"""Steps between the rollouts of two parts, so that their groups and seeds differ."""


class _Saved(msgspec.Struct, kw_only=True):
    """How far a part is.

    Attributes:
        state: What it saved last.
        step: The step that it saved last.
        taken: Its steps in this turn.
        total: Its steps in all turns.
        ended: Whether it is done.
    """

    state: dict[str, Json] = {}
    step: int = 0
    taken: int = 0
    total: int = 0
    ended: bool = False

    def reached(self, step: int, state: Mapping[str, Json]) -> None:
        """Takes in a checkpoint; a composition may begin to count anew with its next part."""
        steps = step - self.step if step >= self.step else step
        self.state, self.step = dict(state), step
        self.taken += steps
        self.total += steps


class AlternateAlgorithm:
    """Gives algorithms their turns. Where each of them is, is in every checkpoint.

    A turn ends with the first checkpoint after `steps` steps: what a part is then, is all in what it saved, in the
    learner and in the store, so others may go on from there, and so may another process.

    Args:
        algorithms: The parts.
        steps: Least steps of a turn.
        rounds: Turns of each part; None goes on until all have ended.
    """

    def __init__(self, algorithms: Sequence[Algorithm], *, steps: int = 1, rounds: int | None = None) -> None:
        self._algorithms = list(algorithms)
        self._steps = steps
        self._rounds = rounds
        self.name = "+".join(algorithm.name for algorithm in algorithms)

    async def fit(self, context: TrainingContext) -> None:
        """Goes on with the turn at which the last checkpoint was, and evaluates if rounds cut a part short."""
        found = context.state.get("parts")
        saved = msgspec.convert(found, list[_Saved]) if found else [_Saved() for _ in self._algorithms]
        number, turn = int(str(context.state.get("round", 0))), int(str(context.state.get("turn", 0)))

        async def save() -> None:
            """A turn that is over is the next part's."""
            over = saved[turn].ended or saved[turn].taken >= self._steps
            place = number * len(saved) + turn + over
            if over:
                saved[turn].taken = 0
            state: dict[str, Json] = {
                "parts": msgspec.to_builtins(saved),
                "round": place // len(saved),
                "turn": place % len(saved),
            }
            await context.checkpoint(sum(one.total for one in saved), state)

        parts = [
            _Part(
                context,
                algorithm=algorithm,
                index=index,
                count=len(saved),
                saved=saved[index],
                save=save,
                steps=self._steps,
            )
            for index, algorithm in enumerate(self._algorithms)
        ]
        async with owned(parts):
            while not all(one.ended for one in saved) and (self._rounds is None or number < self._rounds):
                if not saved[turn].ended:
                    for request in parts[turn].asked:
                        parts[turn].grant(request, None)
                    await parts[turn].turn()
                    if parts[turn].ended:
                        saved[turn].ended = True
                        await save()
                number, turn = divmod(number * len(saved) + turn + 1, len(saved))
        if context.val and not all(one.ended for one in saved):
            await context.evaluate(label="after", step=sum(one.total for one in saved))


class _Part(TurnContext):
    """The run as one part sees it: its checkpoint may be the end of its turn."""

    def __init__(
        self,
        whole: TrainingContext,
        *,
        algorithm: Algorithm,
        index: int,
        count: int,
        saved: _Saved,
        save: Callable[[], Awaitable[None]],
        steps: int,
    ) -> None:
        super().__init__(whole, algorithm=algorithm, index=index, state=dict(saved.state))
        self._prefix = algorithm.name if index + 1 < count else ""
        self._saved = saved
        self._save = save
        self._steps = steps

    async def rollouts(
        self,
        tasks: Sequence[Json],
        *,
        samples: int = 1,
        mode: Mode = Mode.TRAIN,
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> list[Rollout]:
        step += self.index * _STRIDE
        return await self._whole.rollouts(tasks, samples=samples, mode=mode, step=step, resources=resources)

    async def evaluate(
        self,
        tasks: Sequence[Json] | None = None,
        *,
        label: str = "val",
        step: int = 0,
        resources: ResourceSet | None = None,
    ) -> EvaluationReport:
        if label == "before" and self.index:
            label = f"{self.algorithm.name}/{label}"  # others have learned before
        return await self._whole.evaluate(tasks, label=label, step=step, resources=resources)

    async def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        await self._whole.log(named(metrics, name=self._prefix) if self._prefix else metrics, step=step)

    async def checkpoint(self, step: int, state: Mapping[str, Json]) -> None:
        self._saved.reached(step, state)
        over = self._saved.taken >= self._steps
        await self._save()
        if over:
            await self.ask(Request[None]())
