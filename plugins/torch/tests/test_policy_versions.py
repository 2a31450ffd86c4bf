"""A policy version names one set of weights for ever, over steps, states that are loaded, and killed processes."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.errors import StoreUnavailable
from agentlightning.types import TokenForest
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._following import Unsampled
from lightning_plugin_torch._model import LoadedModel, load
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._trainer import Trainer

CROSS_ENTROPY = LossSpec(name="cross_entropy", target="losses_of_tests:cross_entropy")
STEP = OptimizerConfig(learning_rate=1e-2)
OPTIONS = TorchOptions(model="unused")


@pytest.fixture(scope="module")
def model(model_directory: Path) -> LoadedModel:
    return load(model_directory, OPTIONS)


@pytest.fixture(scope="module")
def forest(plant: Callable[..., TokenForest]) -> TokenForest:
    return plant([([7, 8], [9, 10])])


@settings(max_examples=10, deadline=None)
@given(events=st.lists(st.sampled_from(["step", "save", "load first", "load last", "kill"]), max_size=8))
def test_no_version_is_given_to_two_sets_of_weights_or_after_a_higher_one(
    events: list[str], model: LoadedModel, forest: TokenForest
) -> None:
    with tempfile.TemporaryDirectory() as name:
        run, saved = Path(name), []

        def process() -> Trainer:
            return Trainer(model, Unsampled(), options=OPTIONS, directory=run, checked=True)

        trainer = process()
        versions = [trainer.version]
        for event in [*events, "save", "kill", "load last", "step"]:
            if event == "step":
                trainer.forward_backward(forest, CROSS_ENTROPY)
                trainer.optim_step(STEP)
            elif event == "save":
                saved.append(run / f"state-{len(saved)}")
                saved[-1].mkdir()
                trainer.save_state(saved[-1])
                continue
            elif event == "kill":
                trainer = process()
            elif saved:
                trainer.load_state(saved[0 if event == "load first" else -1])
            else:
                continue
            assert trainer.publish() == trainer.version
            versions.append(trainer.version)
        assert versions == sorted(set(versions))


async def test_answers_after_a_load_have_a_version_of_their_own(
    build_options: dict, tmp_path: Path, forest: TokenForest
) -> None:
    request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "seed": 1}

    async def begin() -> Backend:
        backend = create_backend({"build": build_options}, seed=0, directory=tmp_path / "run")
        await backend.engine.start()
        return backend

    async def step(backend: Backend) -> None:
        await backend.learner.forward_backward(forest, CROSS_ENTROPY)
        await backend.learner.optim_step(STEP)

    seen = []
    state = tmp_path / "state"
    state.mkdir()
    first = await begin()
    await step(first)
    await first.learner.save_state(state)
    for _ in range(2):
        seen.append((await first.engine.chat(request))["policy_version"])
        await step(first)
    await first.learner.load_state(state)
    seen.append((await first.engine.chat(request))["policy_version"])
    assert first.engine.version == await first.learner.publish() == seen[-1]
    await first.engine.stop()
    second = await begin()
    seen.append((await second.engine.chat(request))["policy_version"])
    await second.learner.load_state(state)
    seen.append((await second.engine.chat(request))["policy_version"])
    await second.engine.stop()
    assert seen == [1, 2, 4, 5, 6]


async def test_weights_do_not_change_if_their_version_cannot_be_kept(
    start: Callable[..., Awaitable[Backend]], tmp_path: Path, forest: TokenForest
) -> None:
    backend = await start()
    await backend.learner.forward_backward(forest, CROSS_ENTROPY)
    before = await backend.learner.logprobs(forest)
    (tmp_path / "0" / "policy-version.part").mkdir()
    with pytest.raises(StoreUnavailable, match="policy version 1 cannot be kept"):
        await backend.learner.optim_step(STEP)
    assert backend.engine.version == 0
    assert await backend.learner.logprobs(forest) == before
