"""Credit for a delayed reward: an agent opens six doors, one call each, and learns only at the end how many opened.

A door has a colour, and for each colour one of four keys is the right one. Nothing says during a rollout which choice
was right, except where an arm is given rewards or errors of single steps. The agent's program emits its state: which
door it is at, and how many are open.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from curves import Curve, Recorder
from openai import AsyncOpenAI
from warm_start import warm_start

import agentlightning as agl
from agentlightning import Trainer
from agentlightning.gateway import Sampling
from agentlightning.types import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.types import Json

DOORS: Final = 6
COLOURS: Final = ("red", "green", "blue", "white")
KEYS: Final = ("brass", "iron", "gold", "copper")
RIGHT: Final = dict(zip(COLOURS, KEYS, strict=True))
SYSTEM: Final = "Choose a key."
TASKS_PER_UPDATE, GROUP_SIZE, LEARNING_RATE = 2, 8, 2e-3
SAMPLED = {mode: Sampling(temperature=1.0, max_tokens=3) for mode in (Mode.TRAIN, Mode.VAL)}


class WrongKeyError(Exception):
    """The door stays shut."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to give credit.

    Attributes:
        title: As figures name it.
        rule: Parameters of the stage `credit`.
        advantage: Estimator of LightningRL.
        signals: Parameters of the stage `signals`.
        steps: The agent is rewarded at each door, not at the end.
    """

    title: str
    rule: Mapping[str, Json] = field(default_factory=dict)
    advantage: Json = "dr_grpo"
    signals: Mapping[str, Json] | None = None
    steps: bool = False


ARMS: Mapping[str, Arm] = {
    "outcome": Arm(title="outcome"),
    "discounted": Arm(title="discounted 0.9", rule={"mode": "discounted", "discount": 0.9}),
    "group_by_state": Arm(title="group_by_state (GiGPO)", rule={"mode": "group_by_state"}),
    "critic": Arm(title="critic, lambda 0", rule={"mode": "critic", "trace": 0.0}),
    "signals": Arm(
        title="signals of errors", rule={"mode": "signals", "discount": 0.0}, signals={"error": -1.0 / DOORS}
    ),
    "per_step": Arm(title="rewards at each step", rule={"mode": "per_step", "discount": 0.0}, steps=True),
}


class Agent:
    """The agent; keeps how many doors each rollout opened, whatever the arm is told of it."""

    def __init__(self, *, rewards_steps: bool) -> None:
        self.opened: list[float] = []
        self._rewards_steps = rewards_steps
        self._client: AsyncOpenAI | None = None

    async def __call__(self, task: list[str]) -> float:
        """Walks through the doors. Returns the share that opened, or nothing where steps were rewarded."""
        self._client = self._client or AsyncOpenAI()
        opened = 0
        for number, colour in enumerate(task):
            agl.emit_state({"door": number, "colour": colour, "opened": opened})
            with suppress(WrongKeyError), agl.operation("door") as door:
                answer = await self._client.chat.completions.create(
                    model="policy",
                    messages=[
                        {"role": "system", "content": SYSTEM},
                        {"role": "user", "content": f"The door is {colour}."},
                    ],
                )
                right = answer.choices[0].message.content == RIGHT[colour]
                opened += right
                if self._rewards_steps:
                    agl.emit_reward(right / DOORS, target=door)
                if not right:
                    raise WrongKeyError
        self.opened.append(opened / len(task))
        return 0.0 if self._rewards_steps else opened / len(task)


def task_list(seed: int, count: int) -> list[list[str]]:
    """Rows of doors."""
    chance = random.Random(f"doors-{seed}")
    return [chance.choices(COLOURS, k=DOORS) for _ in range(count)]


def run(arm: Arm, *, seed: int, updates: int, models: Path, folder: Path) -> Curve:
    """One training; its success is the share of doors that opened."""
    agent = Agent(rewards_steps=arm.steps)
    recorder = Recorder(TASKS_PER_UPDATE * GROUP_SIZE, measured=agent.opened)
    stages: dict[str, Mapping[str, Json]] = {"credit": arm.rule} if arm.rule else {}
    Trainer(
        agent,
        algorithm="lightningrl",
        params={
            "updates": updates,
            "tasks_per_update": TASKS_PER_UPDATE,
            "group_size": GROUP_SIZE,
            "learning_rate": LEARNING_RATE,
            "advantage": arm.advantage,
        },
        train=task_list(seed, 2_000),
        store=f"sqlite:///{folder / 'store.db'}",
        engine="torch",
        engine_params={"model": str(doors(seed=seed, folder=models))},
        stage_params=stages | ({"signals": arm.signals} if arm.signals else {}),
        sampling=SAMPLED,
        observers=[recorder],
        seed=seed,
        concurrency=TASKS_PER_UPDATE * GROUP_SIZE,
    ).fit()
    return recorder.curve


def doors(*, seed: int, folder: Path) -> Path:
    """A model that takes the right key twice as often as each other one: a Hugging Face directory in `folder`."""
    conversations = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"The door is {colour}."},
                {"role": "assistant", "content": key},
            ]
        }
        for colour in COLOURS
        for key in (*KEYS, RIGHT[colour])
    ]
    return warm_start(
        f"doors-{seed}",
        agent=Agent(rewards_steps=False),
        demonstrations=conversations,
        build={"layers": 1, "width": 32, "heads": 2, "context": 128, "init_std": 0.08},
        teaching={
            "steps": 150,
            "batch_size": 20,
            "learning_rate": 1e-2,
            "schedule": "linear",
            "log_every": 150,
        },
        seed=seed,
        folder=folder,
    )
