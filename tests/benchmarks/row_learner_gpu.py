"""Row `learner_gpu`: our learner on one GPU in bfloat16, with random models of 0.5 and 1.5 billion weights.

Numbers are absolute; `forest` alone is a ratio: time of rows divided by that of the forest, for groups of eight answers
to a prompt four times as long. `share of peak` divides 6 operations per weight and token (8 where layers are computed
again) by what this GPU reaches in a product of large matrices, measured here; attention is not counted.
"""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from measurement import Row
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.types import Call, TokenForest, TokenTree
from lightning_plugin_torch._attention import ATTENTION, register_attention
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._trainer import Trainer

LOSS: Final = LossSpec(name="policy_gradient", target="row_learner_gpu:policy_gradient")
WARM_UP: Final = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model in the shape of Qwen 2.5, and the work that is measured with it.

    Attributes:
        group: Answers to one prompt.
        answer: Tokens of an answer; the prompt has four times as many.
        groups: Groups of a batch.
        long: Lengths of single trajectories of which peak memory is measured.
        micro_batch_tokens: As the option.
    """

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int = 151_936
    tied: bool = True
    group: int = 8
    answer: int = 1024
    groups: int = 4
    long: tuple[int, ...] = (8192, 32_768)
    micro_batch_tokens: int = 16_384


SIZES: Final = {
    "0.5B": Size(width=896, layers=24, heads=14, key_value_heads=2, feed_forward=4864),
    "1.5B": Size(width=1536, layers=28, heads=12, key_value_heads=2, feed_forward=8960),
}


class Unsampled:
    """Stands where a sampler would: nothing is sampled here."""

    version = 0

    def weights_changed(self) -> None:
        """Nothing to forget."""


def policy_gradient(
    logprobs_T: torch.Tensor, **columns: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The ratio to the weights themselves."""
    ratio_T = (logprobs_T - logprobs_T.detach()).exp()
    return -(ratio_T * columns["advantages_T"] * columns["weights_T"]).sum(), {}


def measure(*, rounds: int = 5) -> Row:
    """Measures both models, if there is a GPU."""
    if not torch.cuda.is_available():
        return Row(ratios={}, detail={"missing": "this row needs a GPU, and torch finds none here"})
    device = torch.device("cuda")
    peak = matrix_peak(8192, device=device, rounds=rounds)
    found = {
        name: measure_model(size, device=device, peak=peak, rounds=rounds) for name, size in SIZES.items()
    }
    return Row(
        ratios={"forest": min(of["forest"] for of in found.values())},
        detail={
            "device": torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "rounds": rounds,
            "matrix product, TFLOP/s": round(peak / 1e12, 1),
            **found,
        },
    )


def measure_model(size: Size, *, device: torch.device, peak: float, rounds: int) -> dict[str, Any]:
    """Tokens per second of an update, gain of the forest, and peak memory by length.

    Args:
        size: Model and work.
        device: Where.
        peak: Floating-point operations per second of a matrix product.
        rounds: Updates that count, after those that warm up.
    """
    batch, weights = groups_of(size), 0
    taken, computed = {}, {}
    for name, rows in (("forest", False), ("rows", True)):
        model, weights = _model(size, device)
        taken[name] = _time(_trainer(model, size, rows=rows), batch, device=device, rounds=rounds)
        computed[name] = _tokens(batch, rows=rows)
    rate = computed["forest"] / taken["forest"]
    return {
        "weights": weights,
        "unique tokens": computed["forest"],
        "unique tokens/s": round(rate),
        "share of peak": round(6 * weights * rate / peak, 3),
        "tokens of rows": computed["rows"],
        "rows, tokens/s": round(computed["rows"] / taken["rows"]),
        "forest": round(taken["rows"] / taken["forest"], 2),
        "forest, of all that is shared": round(
            taken["rows"] / taken["forest"] / (computed["rows"] / computed["forest"]), 3
        ),
        **{
            f"one trajectory of {length} tokens{', layers again' if again else ''}": _long(
                size, length, device=device, again=again, rounds=rounds
            )
            for length in size.long
            for again in (False, True)
        },
    }


def matrix_peak(width: int, *, device: torch.device, rounds: int) -> float:
    """Floating-point operations per second of a product of square bfloat16 matrices."""
    one, other = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * width**3 / _seconds(lambda: one @ other, device, rounds=rounds)


def groups_of(size: Size) -> TokenForest:
    """Groups of answers to a prompt four times as long, as trees."""
    draw = torch.Generator().manual_seed(0)
    prompt = 4 * size.answer
    total = prompt + size.group * size.answer
    trees = []
    for group in range(size.groups):
        parents = list(range(-1, prompt - 1))
        for _ in range(size.group):
            start = len(parents)
            parents += [prompt - 1, *range(start, start + size.answer - 1)]
        starts = range(prompt, total, size.answer)
        positions = [*range(prompt), *(list(range(prompt, prompt + size.answer)) * size.group)]
        trees.append(
            _tree(size, parents, positions, prompt=prompt, starts=starts, name=str(group), draw=draw)
        )
    return TokenForest(trees=tuple(trees))


def chain_of(size: Size, length: int) -> TokenForest:
    """One trajectory of so many tokens, the second half of which is trained."""
    draw, start = torch.Generator().manual_seed(0), length // 2
    tree = _tree(
        size,
        list(range(-1, length - 1)),
        list(range(length)),
        prompt=start,
        starts=[start],
        name="",
        draw=draw,
    )
    return TokenForest(trees=(tree,))


def _tree(
    size: Size,
    parents: list[int],
    positions: list[int],
    *,
    prompt: int,
    starts: Sequence[int],
    name: str,
    draw: torch.Generator,
) -> TokenTree:
    total = len(parents)
    stops = [*starts[1:], total]
    trained = [0.0] * prompt + [1.0] * (total - prompt)
    return TokenTree(
        group=name,
        token_ids=array("i", torch.randint(size.vocabulary, (total,), generator=draw).tolist()),
        parents=array("i", parents),
        positions=array("i", positions),
        logprobs=array("f", [-1.0 * on for on in trained]),
        versions=array("i", [0] * total),
        advantages=array("f", (torch.randn(total, generator=draw) * torch.tensor(trained)).tolist()),
        weights=array("f", [on / (total - prompt) for on in trained]),
        calls=tuple(
            Call(
                transition_id=f"{name}/{start}",
                rollout_id=f"{name}/{start}",
                prompt_node=prompt - 1,
                start=start,
                stop=stop,
            )
            for start, stop in zip(starts, stops, strict=True)
        ),
    )


def _model(size: Size, device: torch.device, *, checkpointing: bool = False) -> tuple[LoadedModel, int]:
    register_attention()
    torch.manual_seed(0)
    longest = max(5 * size.answer, *size.long)
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=longest,
        tie_word_embeddings=size.tied,
    )
    with torch.device(device):
        create: Callable[..., Any] = Qwen2ForCausalLM._from_config
        module = create(config, attn_implementation=ATTENTION, dtype=torch.bfloat16).eval()
    model = LoadedModel(
        module=module,
        tokenizer=None,  # type: ignore[arg-type]  # nothing is written or read as text
        context=longest,
        device=device,
        sparse=device.type == "cuda",
        checkpointing=checkpointing,
    )
    return model, sum(parameter.numel() for parameter in module.parameters())


def _trainer(model: LoadedModel, size: Size, *, rows: bool = False) -> Trainer:
    options = TorchOptions(model="made here", rows=rows, micro_batch_tokens=size.micro_batch_tokens)
    return Trainer(model, Unsampled(), options=options, directory=Path.cwd(), checked=True)


def _time(trainer: Trainer, batch: TokenForest, *, device: torch.device, rounds: int) -> float:
    """Median seconds of an update."""

    def update() -> None:
        trainer.forward_backward(batch, LOSS)
        trainer.optim_step(OptimizerConfig(learning_rate=1e-6))

    return _seconds(update, device, rounds=rounds)


def _tokens(batch: TokenForest, *, rows: bool) -> int:
    if not rows:
        return batch.size
    return sum(len(tree.path(call.stop - 1)) for tree in batch.trees for call in tree.calls)


def _long(size: Size, length: int, *, device: torch.device, again: bool, rounds: int) -> dict[str, float]:
    """Tokens per second and the most memory of an update with one trajectory."""
    model, _ = _model(size, device, checkpointing=again)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer = _trainer(model, size)
        taken = _time(trainer, chain_of(size, length), device=device, rounds=min(rounds, 3))
    except torch.cuda.OutOfMemoryError:
        return {"out of memory": 1.0}
    found = {"tokens/s": round(length / taken, 1)}
    if device.type == "cuda":
        found["peak GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return found


def _seconds(work: Callable[[], object], device: torch.device, *, rounds: int) -> float:
    """Median seconds, when all that was queued is done."""
    samples = []
    for _ in range(WARM_UP + rounds):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        samples.append(time.perf_counter() - began)
    return statistics.median(samples[WARM_UP:])
