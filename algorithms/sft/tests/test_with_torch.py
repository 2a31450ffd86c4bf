"""The loop with a real model: a tiny transformer learns demonstrations by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import open_store
from agentlightning.testing import InMemoryTrainingContext
from lightning_algorithm_sft import create

torch_plugin = pytest.importorskip("lightning_plugin_torch")

ANSWERS = {"say a": "yes", "say b": "no"}


async def test_a_model_learns_demonstrations_by_heart(tmp_path: Path) -> None:
    path = tmp_path / "demonstrations.jsonl"
    talks = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in ANSWERS.items()
    ]
    path.write_text("\n".join(map(json.dumps, talks)))
    build = {"corpus": str(path), "layers": 1, "width": 32, "heads": 2}
    backend = torch_plugin.create_backend({"build": build}, seed=0, directory=tmp_path / "model")
    await backend.engine.start()
    try:
        async with open_store("memory://") as store:
            context = InMemoryTrainingContext(
                play=lambda *_: None, store=store, engine=backend.engine, learner=backend.learner
            )
            params = {"demonstrations": str(path), "steps": 40, "batch_size": 2, "learning_rate": 1e-2}
            await create(params).fit(context)
        said: dict[str, Any] = {}
        for question in ANSWERS:
            request = {
                "messages": [{"role": "user", "content": question}],
                "temperature": 0.0,
                "max_tokens": 5,
            }
            answer: Any = await backend.engine.chat(request)
            said[question] = answer["choices"][0]["message"]["content"]
    finally:
        await backend.engine.stop()
    assert said == ANSWERS
    losses = [metrics["loss"] for _, metrics in context.logged]
    assert losses[0] > 4
    assert losses[-1] < 0.1
