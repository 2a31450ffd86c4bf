"""What is computed at a time: trees, or parts of large ones, packed into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from agentlightning.types import TokenTree
from lightning_plugin_torch._runs import Ints, Runs


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Nodes of a tree whose log-probabilities are computed together.

    Attributes:
        index: The tree's place in the forest.
        tree: The tree.
        runs: Its runs.
        nodes_K: The wanted nodes, ascending; each has a parent.
        counts: How many nodes of which run have to be computed for that.
    """

    index: int
    tree: TokenTree
    runs: Runs
    nodes_K: Ints
    counts: dict[int, int]

    @property
    def size(self) -> int:
        """Tokens to compute."""
        return sum(self.counts.values())


def parts_of(trees: Sequence[TokenTree], *, trained: bool, limit: int) -> list[Part]:
    """Cuts each tree into parts of at most `limit` tokens.

    Parts follow each other depth first, so that they have few tokens in common; those are computed in each. A path is
    never cut: one longer than the limit is a part by itself.

    Args:
        trees: The trees of a forest.
        trained: Whether only nodes of non-zero weight are wanted, instead of all but first tokens.
        limit: Most tokens of a part.
    """
    return [
        part for index, tree in enumerate(trees) for part in _cut(index, tree, trained=trained, limit=limit)
    ]


def pack(parts: Iterable[Part], *, limit: int) -> list[list[Part]]:
    """Packs parts into micro-batches of at most `limit` tokens, the largest parts first, each where it fits best.

    Returns:
        Micro-batches with their parts in the order given.
    """
    given = list(parts)
    batches: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(given)), key=lambda place: -given[place].size):
        size = given[place].size
        fits = [batch for batch, free in enumerate(room) if free >= size]
        if fits:
            batch = min(fits, key=room.__getitem__)
        else:
            batch = len(batches)
            batches.append([])
            room.append(limit)
        batches[batch].append(place)
        room[batch] -= size
    return [[given[place] for place in sorted(batch)] for batch in batches]


def _cut(index: int, tree: TokenTree, *, trained: bool, limit: int) -> list[Part]:
    nodes_K = _wanted(tree, trained=trained)
    if not len(nodes_K):
        return []
    runs = Runs.of(tree)
    last = runs.last_wanted(nodes_K)
    counts = runs.ancestors(last)
    if sum(counts.values()) <= limit:
        return [Part(index, tree, runs, nodes_K, counts)]
    of_K = np.searchsorted(runs.starts_R, nodes_K, side="right") - 1
    return [
        Part(
            index, tree, runs, nodes_K[np.isin(of_K, members)], runs.ancestors({r: last[r] for r in members})
        )
        for members in _members(runs, last, counts, limit=limit)
    ]


def _members(runs: Runs, last: dict[int, int], counts: dict[int, int], *, limit: int) -> list[list[int]]:
    """Runs with wanted nodes, by part."""
    members: list[list[int]] = []
    have: dict[int, int] = {}
    size = 0
    for run in runs.depth_first(counts.keys() | last.keys()):
        if run not in last:
            continue
        size += runs.add_ancestors(have, run, last[run])
        if not members or size > limit:
            members.append([])
            have = {}
            size = runs.add_ancestors(have, run, last[run])
        members[-1].append(run)
    return members


def _wanted(tree: TokenTree, *, trained: bool) -> Ints:
    wanted_N = np.frombuffer(tree.parents, dtype=np.int32) >= 0
    if trained:
        wanted_N &= np.frombuffer(tree.weights, dtype=np.float32) != 0
    return np.flatnonzero(wanted_N)
