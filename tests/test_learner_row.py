"""The work of the learner's benchmarks, with sizes that a processor bears. No assertion on speed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import generate
import pytest
import torch

if TYPE_CHECKING:
    from types import ModuleType

BENCHMARKS = str(generate.ROOT / "tests/benchmarks")


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("row_learner_gpu")


def test_the_row_for_gpus_runs_with_a_tiny_model(row: ModuleType) -> None:
    size = row.Size(
        width=32,
        layers=2,
        heads=4,
        key_value_heads=2,
        feed_forward=64,
        vocabulary=64,
        answer=8,
        groups=2,
        long=(32,),
        micro_batch_tokens=96,
    )
    found = row.measure_model(size, device=torch.device("cpu"), peak=1e12, rounds=1)
    assert found["unique tokens"] == 2 * (32 + 8 * 8)
    assert found["tokens of rows"] == 2 * 8 * (32 + 8)
    assert {"one trajectory of 32 tokens", "one trajectory of 32 tokens, layers again"} <= found.keys()


def test_the_models_for_gpus_have_the_weights_that_they_are_named_for(row: ModuleType) -> None:
    found = {}
    for name, size in row.SIZES.items():
        _, found[name] = row._model(size, torch.device("meta"))
    assert found == {"0.5B": pytest.approx(0.49e9, rel=0.02), "1.5B": pytest.approx(1.54e9, rel=0.02)}


def test_chains_of_calls_are_merged_as_far_as_each_begins_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    work = importlib.import_module("learner_work")
    assert [len(chain) for chain in work.chains(work.samples("growing"))] == [10, 10]
    assert (
        sorted(len(chain) for chain in work.chains(work.samples("branching"))) == [1] * 8 + [2] * 8 + [3] * 8
    )
    assert len(work.chains(work.samples("shared_prompt"))) == 32
