"""Trains a tiny model for some steps, whole and with adapters: `program_of_ranks.py MODEL FOLDER`, under torchrun."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from array import array
from pathlib import Path

import torch

from agentlightning.engine import Backend, LossInput, LossSpec, OptimizerConfig
from agentlightning.errors import NumericalError
from agentlightning.types import Call, TokenForest, TokenTree
from lightning_plugin_torch import create_backend
from lightning_plugin_torch._following import follow, leave, meet

Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]

TOKENS = LossSpec(name="by_token", target="program_of_ranks:by_token")
ROLLOUTS = LossSpec(name="by_rollout", target="program_of_ranks:by_rollout", inputs=(LossInput.ROLLOUTS,))
BROKEN = LossSpec(name="broken", target="program_of_ranks:broken")


def by_token(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    ratio_T = (logprobs_T - columns["old_logprobs_T"]).clamp(-2, 2).exp()
    return -(columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


def by_rollout(logprobs_T: torch.Tensor, **columns: torch.Tensor) -> Loss:
    _, unit_T = columns["rollouts_T"].unique(return_inverse=True)
    count_U = torch.bincount(unit_T).float()
    sum_U = torch.zeros_like(count_U).index_add(0, unit_T, logprobs_T - columns["old_logprobs_T"])
    ratio_T = (sum_U / count_U).clamp(-3, 3).exp()[unit_T]
    return -(columns["weights_T"] * ratio_T * columns["advantages_T"]).sum(), {"ratio": ratio_T}


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
                calls=tuple(calls),
            )
        )
    return TokenForest(trees=tuple(trees))


async def train(backend: Backend, folder: Path) -> dict[str, object]:
    """Steps with losses by token and by rollout, a state saved and loaded, a loss that is not finite."""
    learner = backend.learner
    assert learner is not None
    await backend.engine.start()
    metrics: list[dict[str, float]] = []
    try:
        for step, loss in enumerate((TOKENS, ROLLOUTS, TOKENS)):
            metrics.append(await learner.forward_backward(forest(seed=step), loss))
            metrics.append(await learner.optim_step(OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)))
        (folder / "state").mkdir()
        await learner.save_state(folder / "state")
        expected = await learner.logprobs(forest(seed=9))
        await learner.forward_backward(forest(seed=10), TOKENS)
        await learner.optim_step(OptimizerConfig(learning_rate=1e-2))
        await learner.load_state(folder / "state")
        if await learner.logprobs(forest(seed=9)) != expected:
            raise AssertionError("a state that was loaded is not what was saved")
        try:
            await learner.forward_backward(forest(seed=11), BROKEN)
        except NumericalError as error:
            broken = str(error)
        metrics.append(await learner.forward_backward(forest(seed=12), TOKENS))
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
    return {"metrics": metrics, "logprobs": expected, "answer": answer["choices"], "broken": "nan" in broken}


async def lead(model: str, folder: Path, *, ranks: int) -> dict[str, dict[str, object]]:
    """Trains whole weights and adapters, and says what came out."""
    found = {}
    for kind, lora in (("whole", None), ("lora", {"rank": 4})):
        options = {"model": model, "ranks": ranks, "micro_batch_tokens": 30, "lora": lora}
        (folder / kind).mkdir(parents=True)
        backend = create_backend(options, seed=0, directory=folder / kind)
        found[kind] = await train(backend, folder / kind)
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
