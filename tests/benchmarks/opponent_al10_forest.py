"""Agent Lightning 1.0's merged training rows: `opponent_al10_forest.py FOLDER`, that of its package. A `Worker`.

Its trainer's own dependencies are not installed: `verl`, `tensordict` and the module that fetches rollouts are stood in
for, as far as they hold what the adapter puts into them. It needs torch.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from answering import Stopwatch, serve
from turns import ANSWER, FIRST, OBSERVATION, rollout


@dataclass
class Completed:
    """A finished rollout."""

    rollout_id: str
    step: int
    sample_idx_in_step: int
    data_id: str
    triplets: list[Any]
    final_reward: float = 1.0


@dataclass
class Triplet:
    """One turn."""

    prompt: dict[str, Any]
    response: dict[str, Any]
    image_urls: None = None


class Tensors(dict[str, Any]):
    """Tensors by name."""

    def __init__(self, values: dict[str, Any], batch_size: object = None, device: object = None) -> None:
        super().__init__(values)


class Batch:
    """What a trainer is handed."""

    def __init__(self, batch: Any = None, non_tensor_batch: Any = None, meta_info: Any = None) -> None:
        self.batch = batch
        self.non_tensor_batch: dict[str, Any] = non_tensor_batch or {}
        self.meta_info: dict[str, Any] = meta_info or {}


def _adapter(folder: str) -> Any:
    names: dict[str, dict[str, object]] = {
        "verl": {"DataProto": Batch, "__path__": []},
        "tensordict": {"TensorDict": Tensors},
        "agentlightning": {"__path__": [folder]},
        "agentlightning.verl": {"__path__": [f"{folder}/verl"]},
        "agentlightning.verl.agl_rollout_manager": {"CompletedRollout": Completed},
    }
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    return import_module("agentlightning.verl.rollout_adapter").RolloutAdapter


def rows(*, turns: int, rollouts: int) -> dict[str, float]:
    """Merges the turns of rollouts."""
    whole = FIRST + turns * (ANSWER + OBSERVATION)
    adapter = ADAPTER(
        max_prompt_length=FIRST,
        max_response_length=whole - FIRST,
        device=torch.device("cpu"),
        pad_token_id=0,
        trace_aggregator_level="trajectory",
    )
    given = [_completed(turns, seed) for seed in range(rollouts)]
    with contextlib.redirect_stdout(io.StringIO()):
        watch = Stopwatch()
        batch, _ = adapter.get_train_data_batch(given)
        taken = watch.per(rollouts)
    trained = int(batch.batch["response_mask"].sum())
    if trained != rollouts * turns * ANSWER:
        raise AssertionError(f"{trained} tokens are trained of {rollouts * turns * ANSWER}")
    return taken


def _completed(turns: int, seed: int) -> Completed:
    triplets = [
        Triplet({"token_ids": turn.prompt}, {"token_ids": turn.answer, "log_probs": turn.logprobs})
        for turn in rollout(turns, seed=seed)
    ]
    return Completed(f"r{seed}", 0, seed, f"d{seed}", triplets)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    ADAPTER = _adapter(sys.argv[1])
    serve({"rows": rows})
