"""The calculator agent's model as all contenders get it: built, and taught by demonstrations, most of them wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import Trainer, demo
from agentlightning.demo import tasks

if TYPE_CHECKING:
    from agentlightning.types import Json

AGENT = f"{Path(demo.__file__).with_name('agent.py')}:solve"
BUILD: dict[str, Json] = {
    "layers": 2,
    "width": 64,
    "heads": 2,
    "feed_forward": 64,
    "vocabulary": 512,
    "context": 1_024,
    "digits": 2,
    "init_std": 0.08,
}
"""The demo's model, of about a hundred thousand parameters."""

TEACHING: dict[str, Json] = {
    "steps": 3_000,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "prompt_weight": 0.05,
    "weight_decay": 0.01,
    "schedule": "wsd",
    "warmup": 20,
    "log_every": 100,
    "checkpoint_every": 3_000,
}


def warm_start(*, seed: int, folder: Path) -> Path:
    """A Hugging Face directory with the model of a seed; made once, then found again in `folder`."""
    place = folder / f"calculator-{seed}"
    if place.exists():
        return place
    work = folder / f"calculator-{seed}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    demonstrations = work / "demonstrations.jsonl"
    demonstrations.write_text("".join(json.dumps(one) + "\n" for one in tasks.demonstrations(seed, 4_000)))
    result = Trainer(
        AGENT,
        algorithm="sft",
        params={**TEACHING, "demonstrations": str(demonstrations)},
        store=f"sqlite:///{work / 'store.db'}",
        engine="torch",
        engine_params={"build": {**BUILD, "corpus": str(demonstrations)}},
        seed=seed,
        directory=work / "run",
    ).fit()
    return keep_model(Path(result.directory), place=place, work=work)


def keep_model(run: Path, *, place: Path, work: Path) -> Path:
    """Moves the model that a run has built and trained to `place`, and deletes what else is in `work`."""
    model = run / "model"
    checkpoint = max((run / "checkpoints").iterdir())
    shutil.copy(checkpoint / "model.safetensors", model)
    shutil.copytree(model, place)
    shutil.rmtree(work)
    return place
