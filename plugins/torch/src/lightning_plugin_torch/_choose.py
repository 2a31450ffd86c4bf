"""Chooses tokens from logits, each row by its own parameters and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_plugin_torch._answer import Answer, Token


def choose(logits_S_V: torch.Tensor, answers: Sequence[Answer]) -> list[Token]:
    """Samples one token per answer by inverting the cumulative distribution, in float64.

    The reported log-probability is that of the temperature-scaled distribution, before `top_p` cuts it; at
    temperature 0 it is that of temperature 1. Every operation works on each row alone, so a row's result does not
    depend on its place.

    Args:
        logits_S_V: The first rows are those of the answers; the others are idle.
        answers: Whose tokens are chosen.
    """
    params = [answer.params for answer in answers]
    idle = len(logits_S_V) - len(answers)
    temperature_S = [p.temperature or 1.0 for p in params] + [1.0] * idle
    uniform_S = [answer.params.uniform(len(answer.tokens)) for answer in answers] + [0.0] * idle
    scaled_S_V = logits_S_V.double() / _column(temperature_S, logits_S_V)
    logprobs_S_V = torch.log_softmax(scaled_S_V, dim=-1)
    probs_S_V = torch.softmax(scaled_S_V, dim=-1)
    for slot, p in enumerate(params):
        if p.top_p < 1:
            probs_S_V[slot] = _nucleus(probs_S_V[slot], p.top_p)
    cumulative_S_V = probs_S_V.cumsum(dim=-1)
    target_S_1 = _column(uniform_S, logits_S_V) * cumulative_S_V[:, -1:]
    ids_S = torch.searchsorted(cumulative_S_V, target_S_1, right=True).squeeze(1)
    ids_S = ids_S.clamp_(max=logits_S_V.shape[1] - 1)
    if any(p.temperature == 0 for p in params):
        greedy_S = torch.tensor([p.temperature == 0 for p in params] + [False] * idle, device=ids_S.device)
        ids_S = torch.where(greedy_S, scaled_S_V.argmax(dim=-1), ids_S)
    chosen_S = logprobs_S_V.gather(1, ids_S[:, None]).squeeze(1).tolist()
    return [
        Token(token, logprob, _top(logprobs_S_V[slot], p.top_logprobs))
        for slot, (token, logprob, p) in enumerate(zip(ids_S.tolist(), chosen_S, params, strict=False))
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
