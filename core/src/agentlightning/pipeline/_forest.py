"""Stage `forest`: the calls of each group become one token tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._trie import Ramp, Trie
from agentlightning.types import Experience, Group, Json, TokenForest, Transition


class ForestParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Forest:
    """Builds the token forest of the groups; transitions without tokens are not in it."""

    name = "forest"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, ForestParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, forest=build_forest(experience.groups))


def build_forest(groups: Iterable[Group]) -> TokenForest:
    """Merges the calls of each group into a token tree; see `merge_calls`.

    Returns:
        One tree per group, in the order of `groups`, trajectories and transitions.
    """
    return merge_calls(
        (
            group.key,
            [transition for trajectory in group.trajectories for transition in trajectory.transitions],
        )
        for group in groups
    )


def merge_calls(groups: Iterable[tuple[str, Iterable[Transition]]]) -> TokenForest:
    """Merges LLM calls into prefix trees over their tokens.

    A prompt continues the longest open path: context of the whole group, and responses of its own rollout. Response
    tokens are always new nodes, so that each is trained once, by its own call. Time is linear in new tokens; comparing
    with what is there already is a `memcmp`.

    Args:
        groups: Keys and calls in order; transitions without tokens are left out.

    Returns:
        One tree per group, in order.
    """
    mismatches: Counter[str] = Counter()
    trees = []
    tokens_in = 0
    ramp = Ramp()
    for key, transitions in groups:
        trie = Trie(key, ramp)
        for transition in transitions:
            if transition.tokens is not None:
                trie.insert(transition, transition.tokens)
        trees.append(trie.tree())
        mismatches.update(trie.mismatches)
        tokens_in += trie.tokens_in
    return TokenForest(trees=tuple(trees), mismatches=dict(sorted(mismatches.items())), tokens_in=tokens_in)
