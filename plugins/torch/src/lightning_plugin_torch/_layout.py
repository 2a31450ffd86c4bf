"""Lays parts of token trees out for the forest attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lightning_plugin_torch._attention import Layout, Sight, Used
from lightning_plugin_torch._flex import subtree_mask
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._runs import Ints
from lightning_plugin_torch._segments import Segment, sight_of

WORTH = 7 / 8
"""Largest share of tokens whose last hidden states are used with which the last layer is computed for those alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A micro-batch: parts laid out, and the nodes whose log-probabilities are wanted.

    Attributes:
        layout: The tokens that have to be computed.
        parent_K: Place in the layout of the token that predicts each wanted node.
        used_K: Place of that token among those that are `used`; None if those are `parent_K`, or if there are none.
        target_K: Id of each wanted node.
    """

    layout: Layout
    parent_K: torch.Tensor
    used_K: torch.Tensor | None
    target_K: torch.Tensor


def lay_out(parts: Sequence[Part], *, device: torch.device, sparse: bool = False) -> Batch:
    """Lays out what has to be computed to predict the wanted nodes: their ancestors.

    Args:
        parts: Parts of trees.
        device: Where the tensors go.
        sparse: Whether attention goes by subtrees, as FlexAttention does, instead of by rows.
    """
    flat = _Flat()
    parents, targets = [], []
    for part in parts:
        place_N = flat.add(part)
        tree_parents_N = np.frombuffer(part.tree.parents, dtype=np.int32)
        parents.append(place_N[tree_parents_N[part.nodes_K]])
        targets.append(np.frombuffer(part.tree.token_ids, dtype=np.int32)[part.nodes_K].astype(np.int64))
    parent_K = np.concatenate(parents)
    used_U, used_K = np.unique(parent_K, return_inverse=True)
    few = len(used_U) <= WORTH * flat.size
    return Batch(
        layout=flat.layout(used_U if few else None, device=device, sparse=sparse),
        parent_K=tensor(parents, device),
        used_K=None if not few or np.array_equal(used_U, parent_K) else tensor([used_K], device),
        target_K=tensor(targets, device),
    )


@dataclass(slots=True, eq=False)
class _Flat:
    """Tokens of several parts, one after the other, and the segments they form."""

    ids: list[Ints] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    ends: list[Ints] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    size: int = 0

    def add(self, part: Part) -> Ints:
        """Appends a part depth first; returns the place of each of its tree's nodes, -1 for those left out."""
        ids_N = np.frombuffer(part.tree.token_ids, dtype=np.int32)
        place_N = np.full(len(ids_N), -1)
        paths: dict[int, Ints] = {}
        order = part.runs.depth_first(part.counts)
        for index in order:
            run, count = part.runs.runs[index], part.counts[index]
            places = np.arange(self.size, self.size + count)
            place_N[run.start : run.start + count] = places
            above = paths[run.above][: run.depth] if run.above >= 0 else places[:0]
            paths[index] = np.concatenate((above, places))
            self.segments.append(Segment.of(paths[index], start=run.depth))
            self.ids.append(ids_N[run.start : run.start + count].astype(np.int64))
            self.positions.append(np.arange(run.depth, run.depth + count))
            self.size += count
        self.ends.append(_ends(part, order, place_N))
        return place_N

    def layout(self, used_U: Ints | None, *, device: torch.device, sparse: bool) -> Layout:
        """All tokens, with what they see.

        Args:
            used_U: Places whose last hidden states are used, if the last layer is computed for them only.
            device: Where the tensors go.
            sparse: Whether attention goes by subtrees.
        """
        end_T = tensor(self.ends, device)
        return Layout(
            token_ids_T=tensor(self.ids, device),
            positions_T=tensor(self.positions, device),
            end_T=end_T,
            sight=Sight((), None, subtree_mask(end_T))
            if sparse
            else sight_of(self.segments, np.arange(self.size), device=device),
            used=None if used_U is None else self._used(used_U, end_T, sparse=sparse),
        )

    def _used(self, used_U: Ints, end_T: torch.Tensor, *, sparse: bool) -> Used:
        query_T = np.full(self.size, -1)
        query_T[used_U] = np.arange(len(used_U))
        place_U = tensor([used_U], end_T.device)
        if sparse:
            sight = Sight((), None, subtree_mask(end_T, place_U))
        else:
            chosen = [segment.only(query_T >= 0) for segment in self.segments]
            sight = sight_of([one for one in chosen if len(one.query_Q)], query_T, device=end_T.device)
        return Used(place_U, tensor([np.flatnonzero(query_T < 0)], end_T.device), sight)


def _ends(part: Part, order: Sequence[int], place_N: Ints) -> Ints:
    """One past the last token below each token of a part: its subtree is all from itself to there."""
    runs, first = part.runs.runs, int(place_N[part.runs.runs[order[0]].start])
    end_T = np.empty(part.size, dtype=np.int64)
    start = {index: int(place_N[runs[index].start]) - first for index in order}
    for index in order:
        end_T[start[index] : start[index] + part.counts[index]] = start[index] + part.counts[index]
    for index in reversed(order):
        if runs[index].above in start:
            above = end_T[start[runs[index].above] : int(place_N[runs[index].parent]) - first + 1]
            np.maximum(above, end_T[start[index]], out=above)
    return end_T + first


def tensor(values: Sequence[Ints], device: torch.device) -> torch.Tensor:
    """All values, one after the other, as integers of 64 bits."""
    joined = np.concatenate(values) if values else np.zeros(0)
    return torch.from_numpy(joined.astype(np.int64)).to(device)
