from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from agentlightning.algorithm import TrainingContext
from agentlightning.config import decode_params
from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.testing import AlgorithmContract
from agentlightning.types import Json

CHECKS = sorted(name for name in dir(AlgorithmContract) if name.startswith("test_"))


class Settings(msgspec.Struct, frozen=True):
    steps: int = 3


class Good:
    name = "good"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self.settings = decode_params(params, Settings, where="algorithm 'good'")

    async def fit(self, context: TrainingContext) -> None:
        if not context.state:
            await context.evaluate(label="before")
        for step in range(self.first(context), 3):
            await self.step(context, step)
            await context.checkpoint(step + 1, {"step": step + 1})

    def first(self, context: TrainingContext) -> int:
        return int(str(context.state.get("step", 0)))

    async def step(self, context: TrainingContext, step: int) -> None:
        assert context.learner is not None
        experience = await context.experience(await context.rollouts(context.train, step=step), step=step)
        assert experience.forest is not None
        loss = await context.learner.forward_backward(experience.forest, LossSpec(name="x", target="x:y"))
        async with context.weight_update():
            await context.learner.optim_step(OptimizerConfig())
            await context.learner.publish()
        await context.log(loss, step=step)


class Nameless(Good):
    name = ""


class Lenient(Good):
    def __init__(self, params: Mapping[str, Json]) -> None:
        pass


class Infinite(Good):
    async def step(self, context: TrainingContext, step: int) -> None:
        await super().step(context, step)
        await context.log({"loss": float("inf")}, step=step + 10)


class Moody(Good):
    moods = itertools.count()

    async def step(self, context: TrainingContext, step: int) -> None:
        await super().step(context, step)
        if not context.state and step == 0:  # only where no resumed run is compared with it
            await context.log({"mood": next(self.moods)}, step=-1)


class Careless(Good):
    async def step(self, context: TrainingContext, step: int) -> None:
        assert context.learner is not None
        await super().step(context, step)
        await context.learner.publish()


class Forgetful(Good):
    def first(self, context: TrainingContext) -> int:
        return 0


async def failures(algorithm: type[Good], folder: Path) -> list[str]:
    class Contract(AlgorithmContract):
        def create(self, params: Mapping[str, Json]) -> Good:
            return algorithm(params)

        def params(self, folder: Path) -> dict[str, Json]:
            return {"steps": 3}

    failed = []
    for name in CHECKS:
        place = folder / name
        place.mkdir()
        try:
            if (running := getattr(Contract(), name)(place)) is not None:
                await running
        except AssertionError:
            failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("algorithm", "check"),
    [
        (Nameless, "test_it_has_a_name"),
        (Lenient, "test_an_unknown_setting_is_refused"),
        (Infinite, "test_metrics_are_finite_and_in_order"),
        (Careless, "test_weights_change_only_during_a_weight_update"),
        (Forgetful, "test_a_resumed_run_does_what_an_uninterrupted_one_does"),
    ],
)
async def test_each_broken_algorithm_fails_exactly_its_test(
    algorithm: type[Good], check: str, tmp_path: Path
) -> None:
    assert await failures(algorithm, tmp_path) == [check]


async def test_an_algorithm_of_moods_does_not_repeat_itself(tmp_path: Path) -> None:
    assert "test_the_same_seed_gives_the_same" in await failures(Moody, tmp_path)


async def test_a_good_algorithm_keeps_the_contract(tmp_path: Path) -> None:
    assert len(CHECKS) == 6
    assert await failures(Good, tmp_path) == []
