"""A training step as one writes it by hand in PyTorch: rows of tokens, logits of all, no framework. A `Worker`."""

from __future__ import annotations

import math
import resource
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from answering import Stopwatch, serve
from learner_work import MODEL, Sample, chains, samples
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[list[int], list[tuple[int, int]], float]


def rows(*, work: str) -> dict[str, float]:
    """Each call is a row."""
    return _step([_row([sample]) for sample in samples(work)])


def merged(*, work: str) -> dict[str, float]:
    """Each chain of calls is a row."""
    return _step([_row(chain) for chain in chains(samples(work))])


def _row(chain: list[Sample]) -> Row:
    spans = [(len(sample.prompt), len(sample.prompt) + len(sample.answer)) for sample in chain]
    return chain[-1].prompt + chain[-1].answer, spans, chain[0].advantage


def _step(made: list[Row]) -> dict[str, float]:
    """One update with rows of equal length side by side, so that nothing is spent on padding."""
    by_length: defaultdict[int, list[Row]] = defaultdict(list)
    for row in made:
        by_length[len(row[0])].append(row)
    trained = sum(stop - start for _, spans, _ in made for start, stop in spans)
    watch = Stopwatch()
    OPTIMIZER.zero_grad()
    for same in by_length.values():
        _loss(same, trained).backward()
    norm = torch.nn.utils.clip_grad_norm_(LM.parameters(), 1.0)
    OPTIMIZER.step()
    taken = watch.per(1)
    if not math.isfinite(norm.item()):
        raise AssertionError(f"the gradient has norm {norm.item()}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**taken, "grad_norm": norm.item(), "peak_bytes": peak}


def _loss(same: Iterable[Row], trained: int) -> torch.Tensor:
    ids_B_T = torch.tensor([ids for ids, _, _ in same])
    mask_B_T = torch.zeros(ids_B_T.shape)
    for place, (_, spans, _) in enumerate(same):
        for start, stop in spans:
            mask_B_T[place, start:stop] = 1
    advantage_B = torch.tensor([advantage for _, _, advantage in same])
    logits_B_T_V = LM(input_ids=ids_B_T, use_cache=False).logits[:, :-1]
    target_B_T = ids_B_T[:, 1:]
    loss_N = torch.nn.functional.cross_entropy(
        logits_B_T_V.flatten(0, 1), target_B_T.flatten(), reduction="none"
    )
    logprobs_B_T = -loss_N.view(target_B_T.shape)
    ratio_B_T = (logprobs_B_T - logprobs_B_T.detach()).exp()
    return -(ratio_B_T * advantage_B[:, None] * mask_B_T[:, 1:]).sum() / trained


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    LM = LlamaForCausalLM(LlamaConfig(**MODEL))
    OPTIMIZER = torch.optim.AdamW(LM.parameters(), lr=0.0)
    serve({"rows": rows, "merged": merged})
