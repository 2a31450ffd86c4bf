"""Demonstrations as a token forest: shared prefixes once, assistant tokens with weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from agentlightning.engine import Tokenized
from agentlightning.pipeline import merge_calls
from agentlightning.types import TokenForest, TokenRecord, Transition


def demonstration_forest(examples: Sequence[Tokenized]) -> TokenForest:
    """One tree of a batch: each run of assistant tokens is a call, everything before it is its prompt.

    Each assistant token weighs 1 / (assistant tokens of the batch). A conversation's very first token is never trained:
    nothing predicts it.
    """
    calls = [call for place, example in enumerate(examples) for call in _calls(str(place), example)]
    forest = merge_calls([("demonstrations", calls)])
    tokens = sum(len(call.tokens.response_ids) for call in calls if call.tokens)
    return forest.assign(
        advantages={call.id: 1.0 for call in calls},
        weights={call.id: 1.0 / tokens for call in calls},
    )


def _calls(place: str, example: Tokenized) -> Iterator[Transition]:
    ids = example.token_ids
    for index, (start, stop) in enumerate(_assistant_runs(example.assistant_mask)):
        tokens = TokenRecord.pack(ids[:start], ids[start:stop], [0.0] * (stop - start), version=-1)
        yield Transition(id=f"{place}/{index}", rollout_id=place, index=index, tokens=tokens)


def _assistant_runs(mask: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """First and one past the last place of each run of assistant tokens."""
    start = 0
    for assistant, run in groupby(mask):
        stop = start + sum(1 for _ in run)
        if assistant and stop > max(start, 1):
            yield max(start, 1), stop
        start = stop
