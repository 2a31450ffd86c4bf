"""Models that all arms of an experiment begin with: built, taught by demonstrations, made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import Trainer, demo
from agentlightning.demo import tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentlightning.types import Json

AGENT = f"{Path(demo.__file__).with_name('agent.py')}:solve"
SIZE = demo.DemoSize()


def calculator(*, seed: int, folder: Path) -> Path:
    """The demo's model, taught by conversations of which most are wrong: a Hugging Face directory in `folder`."""
    return warm_start(
        f"calculator-{seed}",
        agent=AGENT,
        demonstrations=tasks.demonstrations(seed, SIZE.demonstrations),
        build=demo.MODEL,
        teaching={**demo.WARM_START, "steps": SIZE.warm_start_steps},
        seed=seed,
        folder=folder,
    )


def warm_start(
    name: str,
    *,
    agent: object,
    demonstrations: Sequence[Mapping[str, object]],
    build: Mapping[str, Json],
    teaching: Mapping[str, Json],
    seed: int,
    folder: Path,
) -> Path:
    """A Hugging Face directory `folder / name`; made if it is not there."""
    place = folder / name
    if place.exists():
        return place
    work = folder / f"{name}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    path = work / "demonstrations.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in demonstrations))
    result = Trainer(
        agent,
        algorithm="sft",
        params={**teaching, "demonstrations": str(path)},
        store=f"sqlite:///{work / 'store.db'}",
        engine="torch",
        engine_params={"build": {**build, "corpus": str(path)}},
        seed=seed,
        directory=work / "run",
    ).fit()
    assert result.best is not None
    shutil.copytree(
        str(result.best.resources["policy"].value["path"]), place, ignore=shutil.ignore_patterns("state")
    )
    shutil.rmtree(work)
    return place
