"""Trains a tiny model for some steps, in each of `KINDS`: `program_of_ranks.py MODEL FOLDER`, under torchrun."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from array import array
from pathlib import Path

import torch

from agentlightning.engine import (
    Backend,
    LossInput,
    LossSpec,
    OptimizerConfig,
    ReferenceLearner,
    ValueLearner,
)
from agentlightning.errors import NumericalError
from agentlightning.types import Call, TokenForest, TokenTree
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._following import follow, leave, meet

Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]

TOKENS = LossSpec(name="by_token", target="program_of_ranks:by_token")
ROLLOUTS = LossSpec(name="by_rollout", target="program_of_ranks:by_rollout", inputs=(LossInput.ROLLOUTS,))
BROKEN = LossSpec(name="broken", target="program_of_ranks:broken")
VALUED = (LossInput.VALUES, LossInput.OLD_VALUES, LossInput.RETURNS)
TOKEN_VALUES = LossSpec(name="valued", target="program_of_ranks:valued_by_token", inputs=VALUED)
ROLLOUT_VALUES = LossSpec(
    name="valued", target="program_of_ranks:valued_by_rollout", inputs=(*VALUED, LossInput.ROLLOUTS)
)

PLAIN, CRITIC = (TOKENS, ROLLOUTS, TOKENS), (TOKEN_VALUES, ROLLOUT_VALUES, TOKENS, TOKEN_VALUES)
KINDS: dict[str, tuple[dict[str, object], tuple[LossSpec, ...]]] = {
    "whole": ({}, PLAIN),
    "lora": ({"lora": {"rank": 4}}, PLAIN),
    "critic": ({"value_head": {}, "lora": {"rank": 4}}, CRITIC),
    "attached": ({"value_head": {"attached": True}, "reference": True, "checkpointing": True}, CRITIC),
}
"""Options of the learner, and the losses of its steps."""


def by_token(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    ratio_T = (logprobs_T - columns["old_logprobs_T"]).clamp(-2, 2).exp()
    return -(columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


def by_rollout(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    _, unit_T = columns["rollouts_T"].unique(return_inverse=True)
    count_U = torch.bincount(unit_T).float()
    sum_U = torch.zeros_like(count_U).index_add(0, unit_T, logprobs_T - columns["old_logprobs_T"])
    ratio_T = (sum_U / count_U).clamp(-3, 3).exp()[unit_T]
    return -(columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


def valued_by_token(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    policy, metrics = by_token(logprobs_T, **columns)
    return _valued(policy, metrics, columns)


def valued_by_rollout(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    """Values of a whole rollout are in one number, beside its log-probabilities."""
    policy, metrics = by_rollout(logprobs_T, **columns)
    _, unit_T = columns["rollouts_T"].unique(return_inverse=True)
    sum_U = torch.zeros(int(unit_T.max()) + 1).index_add(0, unit_T, columns["values_T"])
    return _valued(policy + 0.01 * (sum_U**2).sum(), metrics, columns)


def _valued(policy: torch.Tensor, metrics: dict[str, torch.Tensor], columns: dict[str, torch.Tensor]) -> Loss:
    values_T, old_T, returns_T = (columns[name] for name in ("values_T", "old_values_T", "returns_T"))
    clipped_T = old_T + (values_T - old_T).clamp(-0.2, 0.2)
    loss_T = torch.maximum((values_T - returns_T) ** 2, (clipped_T - returns_T) ** 2) / 2
    return policy + (columns["weights_T"] * loss_T).sum(), metrics | {"value": values_T}


def broken(logprobs_T: torch.Tensor, **_: torch.Tensor) -> Loss:
    return (logprobs_T * torch.nan).sum(), {}


def forest(*, seed: int) -> TokenForest:
    """Five trees of three answers each, in four rollouts that reach over trees."""
    draw = random.Random(seed)
    trees = []
    for tree in range(5):
        prompt = [draw.randrange(7, 200) for _ in range(12)]
        ids, parents, calls = list(prompt), list(range(-1, 11)), []
        for answer in range(3):
            start = len(ids)
            ids += [draw.randrange(7, 200) for _ in range(draw.randrange(4, 9))]
            parents += [11, *range(start, len(ids) - 1)]
            name = f"r{(tree + answer) % 4}"
            calls.append(
                Call(transition_id=str(answer), rollout_id=name, prompt_node=11, start=start, stop=len(ids))
            )
        positions: list[int] = []
        for parent in parents:
            positions.append(0 if parent < 0 else positions[parent] + 1)
        trained = [float(node >= 12) for node in range(len(ids))]
        trees.append(
            TokenTree(
                group=str(tree),
                token_ids=array("i", ids),
                parents=array("i", parents),
                positions=array("i", positions),
                logprobs=array("f", [-5.0 * on for on in trained]),
                versions=array("i", [0] * len(ids)),
                advantages=array("f", [draw.gauss(0, 1) * on for on in trained]),
                weights=array("f", [draw.random() * on for on in trained]),
                values=array("f", [draw.gauss(0, 1) * on for on in trained]),
                returns=array("f", [draw.gauss(0, 1) * on for on in trained]),
                calls=tuple(calls),
            )
        )
    return TokenForest(trees=tuple(trees))


async def said(backend: Backend) -> list[list[list[float]]]:
    """Log-probabilities of a forest, also those of a reference if there is one, and values if there is a head."""
    learner, given = backend.learner, forest(seed=9)
    assert learner is not None
    found = [await learner.logprobs(given)]
    if isinstance(learner, ReferenceLearner):
        found.append(await learner.reference_logprobs(given))
    if isinstance(learner, ValueLearner):
        found.append(await learner.values(given))
    return found


async def train(backend: Backend, folder: Path, *, losses: tuple[LossSpec, ...]) -> dict[str, object]:
    """Steps with losses by token and by rollout, a state saved and loaded, a loss that is not finite."""
    learner = backend.learner
    assert learner is not None
    await backend.engine.start()
    metrics: list[dict[str, float]] = []
    try:
        for step, loss in enumerate(losses):
            metrics.append(await learner.forward_backward(forest(seed=step), loss))
            metrics.append(await learner.optim_step(OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)))
        (folder / "state").mkdir()
        await learner.save_state(folder / "state")
        expected = await said(backend)
        await learner.forward_backward(forest(seed=10), losses[0])
        await learner.optim_step(OptimizerConfig(learning_rate=1e-2))
        await learner.load_state(folder / "state")
        if await said(backend) != expected:
            raise AssertionError("a state that was loaded is not what was saved")
        try:
            await learner.forward_backward(forest(seed=11), BROKEN)
        except NumericalError as error:
            broken = str(error)
        metrics.append(await learner.forward_backward(forest(seed=12), losses[0]))
        metrics.append(await learner.optim_step(OptimizerConfig(learning_rate=1e-2)))
        answer = await backend.engine.chat(
            {
                "messages": [{"role": "user", "content": "What is 1 + 1?"}],
                "seed": 1,
                "max_tokens": 5,
                "logprobs": True,
                "return_token_ids": True,
            }
        )
        await learner.save_model(folder / "model")
    finally:
        await backend.engine.stop()
    return {"metrics": metrics, "said": expected, "answer": answer["choices"], "broken": "nan" in broken}


def start(model: str, folder: Path, *, ranks: int, options: dict[str, object]) -> Backend:
    """A backend whose batches are several micro-batches."""
    given = {"model": model, "ranks": ranks, "micro_batch_tokens": 30, **options}
    return create_backend(given, seed=0, directory=folder)


async def lead(model: str, folder: Path, *, ranks: int) -> dict[str, dict[str, object]]:
    """Trains each kind, and says what came out."""
    found = {}
    for kind, (own, losses) in KINDS.items():
        (folder / kind).mkdir(parents=True)
        backend = start(model, folder / kind, ranks=ranks, options=own)
        found[kind] = await train(backend, folder / kind, losses=losses)
    return found


def main() -> None:
    """Leads, or follows."""
    model, folder = sys.argv[1], Path(sys.argv[2])
    if not meet():
        follow()
        return
    try:
        found = asyncio.run(lead(model, folder, ranks=int(os.environ["WORLD_SIZE"])))
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    finally:
        leave()


if __name__ == "__main__":
    main()
