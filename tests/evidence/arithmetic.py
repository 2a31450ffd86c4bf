"""The calculator agent from one model, on one list of tasks, in one budget: by LightningRL, and by other arms.

`calculator` compares with TRL's GRPO on flattened rows; `forest` trains each call as a row of its own; `asynchronous`
has an agent that waits for its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from curves import Curve, Recorder
from warm_start import AGENT, calculator

from agentlightning import Trainer
from agentlightning.demo import tasks
from agentlightning.gateway import Sampling
from agentlightning.types import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.types import Json

TASKS_PER_UPDATE, GROUP_SIZE, LEARNING_RATE = 16, 8, 1.5e-3
HELD_OUT = 256
SAMPLED = {mode: Sampling(temperature=1.0) for mode in (Mode.TRAIN, Mode.VAL)}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contender.

    Attributes:
        title: As figures name it.
        params: Settings of LightningRL beyond the common ones; None is TRL.
        engine: Settings of the engine.
        agent: Import string.
    """

    title: str
    params: Mapping[str, Json] | None = field(default_factory=dict)
    engine: Mapping[str, Json] = field(default_factory=dict)
    agent: str = AGENT


SLOW = f"{Path(__file__).with_name('slow_agent.py')}:solve"
CALCULATOR: Mapping[str, Arm] = {
    "lightningrl": Arm(title="LightningRL"),
    "trl": Arm(title="TRL GRPO, flattened rows", params=None),
}
FOREST: Mapping[str, Arm] = {
    "forest": Arm(title="token forest"),
    "rows": Arm(title="a row for each call", engine={"rows": True}),
}
ASYNCHRONOUS: Mapping[str, Arm] = {
    "in_turn": Arm(title="rollouts and updates in turn", agent=SLOW),
    "beside": Arm(title="at most 2 versions old", params={"max_staleness": 2}, agent=SLOW),
}


def run(arm: Arm, *, seed: int, updates: int, models: Path, folder: Path) -> Curve:
    """One training, and its success on held-out tasks."""
    model = calculator(seed=seed, folder=models)
    if arm.params is None:
        return _trl(model, seed=seed, updates=updates, folder=folder)
    recorder = Recorder(TASKS_PER_UPDATE * GROUP_SIZE)
    params: dict[str, Json] = {
        "updates": updates,
        "tasks_per_update": TASKS_PER_UPDATE,
        "group_size": GROUP_SIZE,
        "learning_rate": LEARNING_RATE,
        "schedule": "linear",
    }
    _trainer(
        model,
        agent=arm.agent,
        seed=seed,
        folder=folder,
        params=params | dict(arm.params),
        engine=arm.engine,
        observers=[recorder],
    ).fit()
    return recorder.curve


def _trl(model: Path, *, seed: int, updates: int, folder: Path) -> Curve:
    from trl_grpo import train  # imported here because TRL is only where it is asked for

    curve = train(
        model,
        seed=seed,
        updates=updates,
        tasks_per_update=TASKS_PER_UPDATE,
        group_size=GROUP_SIZE,
        learning_rate=LEARNING_RATE,
        folder=folder / "trl",
    )
    judge = _trainer(folder / "trl" / "trained", seed=seed, folder=folder, params={}, engine={}, observers=[])
    curve.held_out = judge.evaluate().mean
    return curve


def _trainer(
    model: Path,
    *,
    agent: str = AGENT,
    seed: int,
    folder: Path,
    params: Mapping[str, Json],
    engine: Mapping[str, Json],
    observers: list[Recorder],
) -> Trainer:
    return Trainer(
        agent,
        algorithm="lightningrl",
        params=params,
        train=tasks.training_tasks(seed, 2_000),
        val=tasks.held_out_tasks(seed, HELD_OUT),
        store=f"sqlite:///{folder / 'store.db'}",
        engine="torch",
        engine_params={"model": str(model), "context": 1_024, **engine},
        graders=["agentlightning.demo.tasks:grade"],
        sampling=SAMPLED,
        observers=observers,
        seed=seed,
        concurrency=TASKS_PER_UPDATE * GROUP_SIZE,
    )
