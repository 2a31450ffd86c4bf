"""Several processes train as one."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from agentlightning.errors import ConfigError
from lightning_plugin_torch._model import load
from lightning_plugin_torch._options import TorchOptions, decode_options
from lightning_plugin_torch._ranks import Alone, Group, join

PROGRAM = Path(__file__).parent / "program_of_ranks.py"
TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr",
    "127.0.0.1",
    "--nproc-per-node",
    "2",
)


@pytest.fixture
def program() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PROGRAM.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[PROGRAM.stem]


@pytest.mark.slow
async def test_two_processes_have_the_losses_gradients_and_weights_of_one(
    program: ModuleType, model_directory: Path, tmp_path: Path
) -> None:
    one = await program.lead(str(model_directory), tmp_path / "one", ranks=1)
    done = await asyncio.create_subprocess_exec(
        sys.executable,
        *TORCHRUN,
        str(PROGRAM),
        str(model_directory),
        str(tmp_path / "two"),
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await done.communicate()
    assert done.returncode == 0, said[-3000:].decode()
    assert b"Warning" not in said, said[-3000:].decode()
    two = json.loads((tmp_path / "two" / "found.json").read_text())
    for kind, (options, _) in program.KINDS.items():
        compare(two[kind], one[kind])
        files = ["state/model.safetensors", "state/optimizer.safetensors", "model/model.safetensors"]
        if "value_head" in options:
            files += ["state/value_head.safetensors", "state/value_optimizer.safetensors"]
        for file in files:
            weights, expected = (load_file(tmp_path / name / kind / file) for name in ("two", "one"))
            assert weights.keys() == expected.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
    for kind in program.KINDS:
        await goes_on_alone(program, str(model_directory), tmp_path, kind=kind, expected=two[kind]["said"])


async def goes_on_alone(
    program: ModuleType, model: str, folder: Path, *, kind: str, expected: list[Any]
) -> None:
    """One process says the same after loading what two have saved."""
    options, _ = program.KINDS[kind]
    backend = program.start(model, folder / "alone" / kind, ranks=1, options=options)
    await backend.engine.start()
    await backend.learner.load_state(folder / "two" / kind / "state")
    for mine, theirs in zip(await program.said(backend), expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    await backend.engine.stop()


def compare(two: dict[str, Any], one: dict[str, Any]) -> None:
    for mine, theirs in zip(two["metrics"], one["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    for mine, theirs in zip(two["said"], one["said"], strict=True):
        assert any(number for tree in mine for number in tree)
        for tree, expected in zip(mine, theirs, strict=True):
            assert tree == pytest.approx(expected, abs=1e-4)
    assert two["broken"] is one["broken"] is True
    for mine, theirs in zip(two["answer"], one["answer"], strict=True):
        assert mine["token_ids"] == theirs["token_ids"]


@pytest.fixture
def alone_in_a_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.parametrize("leads", [True, False])
def test_only_who_samples_keeps_whole_weights_beside_its_shards(model_directory: Path, leads: bool) -> None:
    model = load(model_directory, TorchOptions(model=str(model_directory)))
    ranks = Group(model.device)
    ranks.leads = leads
    trained, _ = ranks.place(model, None)
    assert all(isinstance(weight, DTensor) for weight in trained.parameters())
    assert any(isinstance(weight, DTensor) for weight in model.module.parameters()) is not leads


def test_a_number_of_processes_that_were_not_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(join(1, device=torch.device("cpu")), Alone)
    with pytest.raises(ConfigError, match="ranks is 2, but this is one of 1 processes"):
        join(2, device=torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="ranks is 1, but this is one of 2 processes"):
        join(1, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="the other processes do not follow"):
        join(2, device=torch.device("cpu"))


def test_ranks_that_cannot_be_honoured_are_refused(model_directory: Path) -> None:
    with pytest.raises(ConfigError, match="ranks is 0; it must be above 0"):
        decode_options({"model": str(model_directory), "ranks": 0})
