"""What a training came to, as it is printed."""

from __future__ import annotations

import json

import pytest

from agentlightning.cli._results import show_training, summary_text
from agentlightning.trainer import TrainingResult
from agentlightning.types import (
    PromptTemplate,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    RunStatus,
    Weights,
)


def result(*, weights: bool) -> TrainingResult:
    resources = {"system": ResourceRecord.of(PromptTemplate(template="hello"))}
    if weights:
        resources["policy"] = ResourceRecord.of(Weights(path="/somewhere/trained", version=7))
    best = ResourceSet(
        id="set", version=2, resources=resources, state=ResourceState.LIVE, created_at=0.0, parent=None
    )
    return TrainingResult(
        run_id="train-1",
        store="memory://",
        directory="/somewhere",
        status=RunStatus.SUCCEEDED,
        summary={},
        best=best,
        history=[],
    )


def test_a_trained_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_training(result(weights=True), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["models"] == {"policy": "/somewhere/trained"}
    show_training(result(weights=True), as_json=False)
    assert "model policy" in capsys.readouterr().out


def test_without_trained_weights_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    show_training(result(weights=False), as_json=True)
    assert json.loads(capsys.readouterr().out)["models"] == {}


def test_an_evaluation_without_an_outcome_is_not_a_mean_of_zero() -> None:
    summary = {"mean": 0.0, "low": 0.0, "high": 1.0, "n": 0, "failures": {"agent_error": 2}}
    assert summary_text(summary) == "no task has an outcome: {'agent_error': 2}"
    assert summary_text(summary | {"n": 2}).startswith("0.000 [0.000, 1.000] on 2 tasks")
