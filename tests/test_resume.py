"""A killed training goes on: in turn to the same numbers, beside the learner without losing or repeating a group."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentlightning.store import open_store
from agentlightning.types import Json, Run, RunStatus

pytest.importorskip("lightning_algorithm_lightningrl")
pytest.importorskip("lightning_plugin_gateway")
pytest.importorskip("lightning_adapter_openai")

SCRIPT = Path(__file__).parent / "resume/killed_training.py"
IN_TURN: dict[str, Json] = {
    "updates": 4,
    "tasks_per_update": 2,
    "group_size": 3,
    "checkpoint_every": 1,
    "learning_rate": 1e-2,
}
BESIDE = IN_TURN | {"updates": 8, "max_staleness": 2}
PHASES = ("rollouts:9", "learning:2", "after_step:2", "in_checkpoint:1")


def train(folder: Path, backend: str, params: dict[str, Json], where: str) -> int:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), backend, json.dumps(params), where],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-4_000:]
    return done.returncode


def killed_and_finished(
    folder: Path, backend: str, params: dict[str, Json], phases: Sequence[str] = PHASES
) -> Run:
    for phase in phases:
        assert train(folder, backend, params, phase) == -signal.SIGKILL, phase
    assert train(folder, backend, params, "never") == 0
    run, _ = read(folder)
    return run


def read(folder: Path) -> tuple[Run, dict[tuple[str, int], float]]:
    """The only run of a folder, and its metrics by name and step.

    Left out are times, and the gateway's canary, which compares answers of one process.
    """

    async def job() -> tuple[Run, dict[tuple[str, int], float]]:
        async with open_store(f"sqlite:///{folder / 'agl.db'}") as store:
            (run,) = await store.runs.list()
            points = await store.runs.metrics(run.id)
        return run, {
            (one.name, one.step): one.value for one in points if not re.search("time|canary", one.name)
        }

    return asyncio.run(job())


def test_a_training_in_turn_comes_to_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", "scripted", IN_TURN, "never") == 0
    run = killed_and_finished(tmp_path / "killed", "scripted", IN_TURN)
    whole, expected = read(tmp_path / "whole")
    _, found = read(tmp_path / "killed")
    assert run.status is whole.status is RunStatus.SUCCEEDED
    assert found == expected
    assert ("value", 3) in found


@pytest.mark.slow
def test_a_real_model_in_turn_comes_to_the_same_numbers_too(tmp_path: Path) -> None:
    pytest.importorskip("lightning_plugin_torch")
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import killed_training
    finally:
        sys.path.remove(str(SCRIPT.parent))
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert train(tmp_path / "killed", "torch", IN_TURN, "after_step:2") == -signal.SIGKILL
    for name in ("whole", "killed"):
        killed_training.client.cache_clear()
        killed_training.main(tmp_path / name, "torch", json.dumps(IN_TURN), "never")
    _, expected = read(tmp_path / "whole")
    _, found = read(tmp_path / "killed")
    assert found == expected
    assert len({value for (name, _), value in found.items() if name == "loss"}) > 1


def test_a_training_beside_its_rollouts_neither_loses_nor_repeats_a_group(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    run = killed_and_finished(folder, "scripted", BESIDE)
    assert run.status is RunStatus.SUCCEEDED
    assert run.checkpoint is not None
    saved = json.loads((Path(run.checkpoint.path) / "scripted.json").read_text())
    places = [int(group.split("/")[2]) for group in saved["learned"]]
    _, metrics = read(folder)
    stale = sum(value for (name, _), value in metrics.items() if name == "groups/stale")
    assert len(places) == len(set(places))
    assert max(places) + 1 - len(places) == stale
    assert len(places) == 16
    assert max(value for (name, _), value in metrics.items() if name == "staleness/max") <= 2
