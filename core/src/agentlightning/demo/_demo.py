"""The demo: a tool-using agent that knows nothing of training is trained on this machine, and gets better."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agentlightning.demo import tasks
from agentlightning.errors import ConfigError
from agentlightning.gateway import Sampling
from agentlightning.observer import Observer
from agentlightning.trainer import Trainer, TrainingResult
from agentlightning.types import Json, Mode

_AGENT = Path(__file__).with_name("agent.py")
_GRADER = "agentlightning.demo.tasks:grade"

MODEL: Mapping[str, Json] = {
    "layers": 2,
    "width": 64,
    "heads": 2,
    "feed_forward": 64,
    "vocabulary": 512,
    "context": 1_024,
    "digits": 2,
    "init_std": 0.08,
}
"""About a hundred thousand parameters: enough to copy numbers and to learn when to use a tool."""

WARM_START: Mapping[str, Json] = {
    "batch_size": 16,
    "learning_rate": 3e-3,
    "prompt_weight": 0.05,
    "weight_decay": 0.01,
    "schedule": "wsd",
    "warmup": 20,
    "log_every": 20,
    "checkpoint_every": 500,
}
"""How the model is taught from demonstrations, whatever their number."""

_DECODING = 1.0
"""Temperature of the evaluations before and after; a lower one would hide how often the warm start still guesses."""


class DemoSize(msgspec.Struct, frozen=True, kw_only=True):
    """How much the demo does. The defaults take a few minutes on two cores.

    Attributes:
        demonstrations: Recorded conversations for the warm start.
        warm_start_steps: Optimiser steps of the warm start.
        train_tasks: Distinct training tasks.
        held_out_tasks: Tasks of the evaluation before and after.
        updates: Updates by reinforcement learning.
        tasks_per_update: Tasks of one update.
        group_size: Rollouts of each task.
    """

    demonstrations: int = 4_000
    warm_start_steps: int = 3_000
    train_tasks: int = 2_000
    held_out_tasks: int = 256
    updates: int = 64
    tasks_per_update: int = 16
    group_size: int = 8


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Success on the held-out tasks with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo came to.

    Attributes:
        tokens: Tokens of all calls that were learned from.
        seconds: Wall time, evaluation included.
        store: URL of the store that has everything.
    """

    before: Score
    after: Score
    rollouts: int
    updates: int
    tokens: int
    seconds: float
    run_id: str
    store: str


def run_demo(
    *,
    seed: int = 0,
    directory: str | Path = "agl-demo",
    size: DemoSize | None = None,
    observers: Sequence[Observer | str] = (),
    port: int = 0,
) -> tuple[DemoReport, TrainingResult]:
    """Builds a small transformer, warm-starts it from demonstrations, and trains it with LightningRL.

    Args:
        seed: Everything random derives from it; two runs with one seed give the same numbers on a CPU.
        directory: Where the store, the model and the checkpoints go.
        size: How much it does.
        observers: Listeners, or names of them.
        port: The gateway's port; 0 takes a free one.

    Raises:
        ConfigError: The directory cannot be written.
        MissingExtra: A package that the demo needs is not installed.
        Interrupted: It was stopped; the message says how to resume.
    """
    started = time.monotonic()
    trainer = demo_trainer(
        seed=seed,
        directory=Path(directory).resolve(),
        size=size or DemoSize(),
        observers=observers,
        port=port,
    )
    result = trainer.fit()
    return report_of(result, seconds=time.monotonic() - started), result


def demo_trainer(
    *, seed: int, directory: Path, size: DemoSize, observers: Sequence[Observer | str], port: int
) -> Trainer:
    """The trainer of the demo: exactly what a person would write for an agent of their own."""
    demonstrations = _write_demonstrations(directory, seed=seed, count=size.demonstrations)
    warm_start: dict[str, Json] = {
        "demonstrations": str(demonstrations),
        "steps": size.warm_start_steps,
        **WARM_START,
    }
    reinforcement: dict[str, Json] = {
        "updates": size.updates,
        "tasks_per_update": size.tasks_per_update,
        "group_size": size.group_size,
        "learning_rate": 1.5e-3,
        "schedule": "linear",
    }
    return Trainer(
        f"{_AGENT}:solve",
        algorithm=[("sft", warm_start), ("lightningrl", reinforcement)],
        train=tasks.training_tasks(seed, size.train_tasks),
        val=tasks.held_out_tasks(seed, size.held_out_tasks),
        store=f"sqlite:///{directory / 'demo.db'}",
        engine="torch",
        engine_params={"build": {"corpus": str(demonstrations), **MODEL}},
        graders=[_GRADER],
        observers=observers,
        sampling={Mode.TRAIN: Sampling(temperature=1.0), Mode.VAL: Sampling(temperature=_DECODING)},
        seed=seed,
        concurrency=size.tasks_per_update * size.group_size,
        port=port,
    )


def _write_demonstrations(directory: Path, *, seed: int, count: int) -> Path:
    path = directory / f"demonstrations-{seed}.jsonl"
    lines = [json.dumps(one) for one in tasks.demonstrations(seed, count)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write the demo's files to {str(directory)!r}: {error.strerror}; "
            "choose another folder with --directory"
        ) from error
    return path


def report_of(result: TrainingResult, *, seconds: float) -> DemoReport:
    """The demo's report, from what the run left behind."""
    return DemoReport(
        before=_score(result.summary, "before"),
        after=_score(result.summary, "after"),
        rollouts=int(str(result.summary["rollouts"])),
        updates=sum(1 for point in result.history if point.name == "reward"),
        tokens=int(str(result.summary["tokens"])),
        seconds=round(seconds, 1),
        run_id=result.run_id,
        store=result.store,
    )


def _score(summary: Mapping[str, Json], label: str) -> Score:
    return msgspec.convert(summary[label], type=Score)
