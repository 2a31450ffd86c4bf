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
from safetensors.torch import load_file

from agentlightning.errors import ConfigError
from lightning_plugin_torch._options import decode_options
from lightning_plugin_torch._ranks import Alone, join

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
    two = json.loads((tmp_path / "two" / "found.json").read_text())
    for kind in ("whole", "lora"):
        compare(two[kind], one[kind])
        for file in ("state/model.safetensors", "state/optimizer.safetensors", "model/model.safetensors"):
            weights, expected = (load_file(tmp_path / name / kind / file) for name in ("two", "one"))
            assert weights.keys() == expected.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)


def compare(two: dict[str, Any], one: dict[str, Any]) -> None:
    for mine, theirs in zip(two["metrics"], one["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    for mine, theirs in zip(two["logprobs"], one["logprobs"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert two["broken"] is one["broken"] is True
    for mine, theirs in zip(two["answer"], one["answer"], strict=True):
        assert mine["token_ids"] == theirs["token_ids"]


def test_a_number_of_processes_that_were_not_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(join(1, device=torch.device("cpu")), Alone)
    with pytest.raises(ConfigError, match="ranks is 2, but this is one of 1 processes"):
        join(2, device=torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="ranks is 1, but this is one of 2 processes"):
        join(1, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="the other processes do not follow"):
        join(2, device=torch.device("cpu"))


@pytest.mark.parametrize("options", [{"ranks": 0}, {"ranks": 2, "reference": True}], ids=str)
def test_ranks_that_cannot_be_honoured_are_refused(model_directory: Path, options: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match="ranks must be above 0, and a reference is kept by one process only"
    ):
        decode_options({"model": str(model_directory), **options})
