"""What a training came to, as it is printed."""

from __future__ import annotations

import json

import pytest

from agentlightning.cli._results import show_training
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
