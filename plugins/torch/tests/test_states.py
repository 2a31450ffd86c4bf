"""States that are loaded into runs unlike the one that saved them, and what stays of the files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agentlightning.engine import Backend, LossSpec, OptimizerConfig
from agentlightning.types import TokenForest

Planter = Callable[..., TokenForest]
Starter = Callable[..., Awaitable[Backend]]

RATIO = LossSpec(name="ratio", target="losses_of_tests:ratio")
MAPS = Path("/proc/self/maps")
CALLS = [([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [23, 24])]


async def step(backend: Backend, forest: TokenForest) -> None:
    await backend.learner.forward_backward(forest, RATIO)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-3))


async def saved(backend: Backend, directory: Path) -> Path:
    await asyncio.to_thread(directory.mkdir)
    await backend.learner.save_state(directory)
    return directory


@pytest.mark.parametrize(("first", "then"), [("float32", "bfloat16"), ("bfloat16", "float32")])
async def test_a_state_goes_on_with_weights_of_another_type(
    start: Starter, plant: Planter, tmp_path: Path, *, first: str, then: str
) -> None:
    forest = plant(CALLS)
    before, after = await start(dtype=first), await start(dtype=then)
    for _ in range(3):
        await step(before, forest)
    state = await saved(before, tmp_path / "state")
    await after.learner.load_state(state)
    again = await saved(after, tmp_path / "again")
    exact = load_file(state / "model.safetensors")
    exact |= masters(load_file(state / "optimizer.safetensors"))
    found = load_file(again / "model.safetensors") | masters(load_file(again / "optimizer.safetensors"))
    assert found.keys() == exact.keys()
    for name, weight in found.items():
        assert torch.equal(weight, exact[name].to(weight.dtype)), name
    await step(after, forest)


def masters(optimizer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("master."): at for name, at in optimizer.items() if name.startswith("master.")}


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what is mapped")
async def test_files_that_were_loaded_are_let_go(start: Starter, plant: Planter, tmp_path: Path) -> None:
    backend = await start(value_head={}, reference=True)
    await step(backend, plant(CALLS))
    state = await saved(backend, tmp_path / "state")
    await backend.learner.load_state(state)
    assert str(state) not in await asyncio.to_thread(MAPS.read_text)
