"""Chooses tokens from logits, each row by its own parameters and nothing else."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from lightning_plugin_torch._sequence import Sequence, Token


def choose(logits_S_V: torch.Tensor, rows: Items[Sequence | None]) -> list[Token | None]:
    """Samples one token per row by inverting the cumulative distribution, in float64.

    The reported log-probability is that of the temperature-scaled distribution, before `top_p` cuts it; at temperature 0
    it is that of temperature 1. Every operation works on each row alone, so a row's result does not depend on its slot.

    Args:
        logits_S_V: One row of logits per slot.
        rows: Who is in each slot; None for nobody.
    """
    params = [row.params if row else None for row in rows]
    temperature_S = [p.temperature if p and p.temperature > 0 else 1.0 for p in params]
    uniform_S = [p.uniform(len(row.tokens)) if p and row else 0.0 for p, row in zip(params, rows, strict=True)]
    scaled_S_V = logits_S_V.double() / _column(temperature_S, logits_S_V)
    logprobs_S_V = torch.log_softmax(scaled_S_V, dim=-1)
    probs_S_V = torch.softmax(scaled_S_V, dim=-1)
    for slot, p in enumerate(params):
        if p and p.top_p < 1:
            probs_S_V[slot] = _nucleus(probs_S_V[slot], p.top_p)
    cumulative_S_V = probs_S_V.cumsum(dim=-1)
    target_S_1 = _column(uniform_S, logits_S_V) * cumulative_S_V[:, -1:]
    ids_S = torch.searchsorted(cumulative_S_V, target_S_1, right=True).squeeze(1)
    ids_S = ids_S.clamp_(max=logits_S_V.shape[1] - 1)
    if any(p and p.temperature == 0 for p in params):
        greedy_S = torch.tensor([p is not None and p.temperature == 0 for p in params], device=ids_S.device)
        ids_S = torch.where(greedy_S, scaled_S_V.argmax(dim=-1), ids_S)
    chosen_S = logprobs_S_V.gather(1, ids_S[:, None]).squeeze(1).tolist()
    return [
        Token(token, logprob, _top(logprobs_S_V[slot], p.top_logprobs)) if p else None
        for slot, (token, logprob, p) in enumerate(zip(ids_S.tolist(), chosen_S, params, strict=True))
    ]


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]


def _nucleus(probs_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the fewest most likely tokens whose mass reaches `top_p`; the rest becomes 0."""
    sorted_V, order_V = probs_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(dim=0) - sorted_V
    return torch.zeros_like(probs_V).scatter(0, order_V, sorted_V.where(before_V < top_p, 0.0))


def _top(logprobs_V: torch.Tensor, count: int) -> list[tuple[int, float]]:
    if not count:
        return []
    best = logprobs_V.topk(min(count, len(logprobs_V)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
