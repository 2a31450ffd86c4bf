"""Log-probabilities under the weights that a run began with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentlightning.engine import Backend, LossSpec, OptimizerConfig, ReferenceLearner
from agentlightning.errors import EngineError
from agentlightning.types import TokenForest

Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")
KEEPING = [{"reference": True}, {"reference": True, "dtype": "bfloat16"}, {"lora": {"rank": 4}}]


async def train(backend: Backend, forest: TokenForest, *, steps: int = 2) -> None:
    for _ in range(steps):
        await backend.learner.forward_backward(forest, CROSS_ENTROPY)
        await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))


@pytest.mark.parametrize("options", KEEPING, ids=str)
async def test_the_reference_stays_what_the_run_began_with(
    start: Starter, plant: Planter, tmp_path: Path, options: dict[str, object]
) -> None:
    backend, forest = await start(**options), plant([([7, 8, 9], [20, 21]), ([7, 8, 9], [22])])
    learner = backend.learner
    assert isinstance(learner, ReferenceLearner)
    first = await learner.logprobs(forest)
    assert await learner.reference_logprobs(forest) == first
    await train(backend, forest)
    trained = await learner.logprobs(forest)
    assert trained != first
    assert await learner.reference_logprobs(forest) == first
    assert await learner.logprobs(forest) == trained
    await train(backend, forest, steps=1)  # what is trained is in its place again
    assert await learner.logprobs(forest) != trained
    assert await learner.reference_logprobs(forest) == first


@pytest.mark.parametrize("options", KEEPING, ids=str)
async def test_a_state_brings_its_reference_along(
    start: Starter, plant: Planter, tmp_path: Path, options: dict[str, object]
) -> None:
    one, other = await start(**options), await start(**options)
    forest = plant([([7, 8, 9], [20, 21])])
    first = await one.learner.reference_logprobs(forest)
    await train(one, forest)
    await one.learner.save_state(tmp_path)
    other.engine._loaded.trainer._reference.restore(
        {name: p.detach() + 1 for name, p in other.engine._loaded.trainer._reference.weights.items()}
    )
    assert await other.learner.reference_logprobs(forest) != first
    await other.learner.load_state(tmp_path)
    assert await other.learner.reference_logprobs(forest) == first
    assert await other.learner.logprobs(forest) == await one.learner.logprobs(forest)


async def test_a_learner_of_whole_weights_keeps_a_reference_only_if_told_to(
    start: Starter, plant: Planter, tmp_path: Path
) -> None:
    plain, keeping = await start(), await start(reference=True)
    assert not isinstance(plain.learner, ReferenceLearner)
    await plain.learner.save_state(tmp_path)
    assert not (tmp_path / "reference.safetensors").exists()
    before = await keeping.learner.logprobs(plant([([7], [8])]))
    with pytest.raises(EngineError, match=r"has no reference\.safetensors: its run kept no reference"):
        await keeping.learner.load_state(tmp_path)
    assert await keeping.learner.logprobs(plant([([7], [8])])) == before
