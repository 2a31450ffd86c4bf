"""A trace of somebody else's instrumentation, through `agl import`, trains a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning import Trainer
from agentlightning.cli import main
from agentlightning.types import Json

pytest.importorskip("lightning_plugin_torch")

GOLDEN = Path(__file__).parents[3] / "core/tests/pipeline/golden"


def nobody(task: Json) -> None:
    """An agent that is never asked."""


@pytest.mark.parametrize("name", ["openinference_langchain", "openllmetry_indexed"])
def test_a_foreign_trace_trains(name: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    calls = [call for call in expected if call["operation"] == "chat" and "error" not in call]
    corpus = tmp_path / "corpus.jsonl"
    talks = [
        {"messages": call["messages"] + call["answers"], "tools": call.get("tools", [])} for call in calls
    ]
    corpus.write_text("\n".join(map(json.dumps, talks)))
    store = f"sqlite:///{tmp_path / 'agl.db'}"
    assert main(["import", str(GOLDEN / f"{name}.json"), "--store", store]) == 0
    result: Any = Trainer(
        nobody,
        algorithm="sft",
        params={"stored": {}, "steps": 30, "batch_size": 3, "learning_rate": 1e-2},
        store=store,
        engine="torch",
        engine_params={"build": {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}},
    ).fit()
    losses = [point.value for point in result.history if point.name == "loss"]
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 10
