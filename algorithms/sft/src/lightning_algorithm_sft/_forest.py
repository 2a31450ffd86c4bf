"""Demonstrations as a token forest: shared prefixes once, assistant tokens with weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from agentlightning.engine import Tokenized
from agentlightning.pipeline import merge_calls
from agentlightning.types import TokenForest, TokenRecord, Transition


def demonstration_forest(examples: Sequence[Tokenized], *, prompt_weight: float = 0.0) -> TokenForest:
    """One tree of a batch: each run of assistant tokens is a call, everything before it is its prompt.

    A conversation's very first token is never trained: nothing predicts it.

    Args:
        prompt_weight: Weight of a token that the assistant did not write, relative to one that it did. Above 0, runs of
            such tokens are calls too, and conversations no longer share their prefixes.

    Returns:
        Each assistant token weighs 1 / (assistant tokens + prompt_weight * other tokens of the batch).
    """
    calls = [call for place, example in enumerate(examples) for call in _calls(place, example, prompt_weight)]
    total = sum(weight * count for _, weight, count in calls)
    return merge_calls([("demonstrations", [call for call, _, _ in calls])]).assign(
        advantages={call.id: 1.0 for call, _, _ in calls},
        weights={call.id: weight / total for call, weight, _ in calls},
    )


def _calls(place: int, example: Tokenized, prompt_weight: float) -> Iterator[tuple[Transition, float, int]]:
    """Each run of tokens that is trained, with the relative weight of its tokens and how many there are."""
    ids, start = example.token_ids, 0
    for assistant, run in groupby(example.assistant_mask):
        stop = start + sum(1 for _ in run)
        first, weight = max(start, 1), 1.0 if assistant else prompt_weight
        if weight and stop > first:
            tokens = TokenRecord.pack(ids[:first], ids[first:stop], [0.0] * (stop - first), version=-1)
            name = f"{place}/{first}"
            yield Transition(id=name, rollout_id=str(place), index=first, tokens=tokens), weight, stop - first
        start = stop
