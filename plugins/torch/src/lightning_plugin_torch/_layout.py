"""Lays parts of token trees out for the forest attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lightning_plugin_torch._attention import Block, Layout
from lightning_plugin_torch._flex import subtree_mask
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._runs import Ints
from lightning_plugin_torch._sizes import round_up


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A micro-batch: parts laid out, and the nodes whose log-probabilities are wanted.

    Attributes:
        layout: The tokens that have to be computed.
        parent_K: Place in the layout of the token that predicts each wanted node.
        target_K: Id of each wanted node.
    """

    layout: Layout
    parent_K: torch.Tensor
    target_K: torch.Tensor


@dataclass(slots=True, eq=False)
class _Segment:
    """Tokens of one run, by places in the layout, after all tokens that they see."""

    path: Ints
    start: int

    @property
    def shape(self) -> tuple[bool, int, int]:
        """Whether nothing comes before it; queries and keys, rounded up so that similar segments share a block."""
        queries = round_up(len(self.path) - self.start, least=16)
        return self.start == 0, queries, round_up(len(self.path), least=16) if self.start else queries


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
    return Batch(
        layout=flat.layout(device, sparse=sparse),
        parent_K=_tensor(parents, device),
        target_K=_tensor(targets, device),
    )


@dataclass(slots=True, eq=False)
class _Flat:
    """Tokens of several parts, one after the other, and the segments they form."""

    ids: list[Ints] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    ends: list[Ints] = field(default_factory=list)
    segments: list[_Segment] = field(default_factory=list)
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
            self.segments.append(_Segment(paths[index], run.depth))
            self.ids.append(ids_N[run.start : run.start + count].astype(np.int64))
            self.positions.append(np.arange(run.depth, run.depth + count))
            self.size += count
        self.ends.append(_ends(part, order, place_N))
        return place_N

    def layout(self, device: torch.device, *, sparse: bool) -> Layout:
        """Groups segments by shape into the rows of blocks, unless attention goes by subtrees."""
        blocks: list[Block] = []
        where_T = np.zeros(self.size, dtype=np.int64)
        offset = 0
        if not sparse:
            by_shape: defaultdict[tuple[bool, int, int], list[_Segment]] = defaultdict(list)
            for segment in self.segments:
                by_shape[segment.shape].append(segment)
            for members in by_shape.values():
                block = _block(members, device=device)
                rows, queries = block.query_R_Q.shape
                for row, segment in enumerate(members):
                    own = segment.path[segment.start :]
                    where_T[own] = offset + row * queries + np.arange(len(own))
                blocks.append(block)
                offset += rows * queries
        same = offset == self.size and bool((where_T == np.arange(self.size)).all())
        end_T = _tensor(self.ends, device)
        return Layout(
            token_ids_T=_tensor(self.ids, device),
            positions_T=_tensor(self.positions, device),
            end_T=end_T,
            blocks=tuple(blocks),
            where_T=None if same else _tensor([where_T], device),
            mask=subtree_mask(end_T) if sparse else None,
        )


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


def _block(segments: list[_Segment], *, device: torch.device) -> Block:
    queries = max(len(segment.path) - segment.start for segment in segments)
    keys = max(len(segment.path) for segment in segments)
    query_R_Q = np.zeros((len(segments), queries), dtype=np.int64)
    key_R_L = np.zeros((len(segments), keys), dtype=np.int64)
    for row, segment in enumerate(segments):
        query_R_Q[row, : len(segment.path) - segment.start] = segment.path[segment.start :]
        key_R_L[row, : len(segment.path)] = segment.path
    start_R = np.array([segment.start for segment in segments])
    visible_R_Q_L = None
    if start_R.any():
        visible_R_Q_L = np.arange(keys) <= (start_R[:, None] + np.arange(queries))[:, :, None]
    flat = query_R_Q.flatten()
    follows = (flat == flat[0] + np.arange(len(flat))).all()
    return Block(
        first=int(flat[0]) if follows else -1,
        query_R_Q=torch.from_numpy(query_R_Q).to(device),
        key_R_L=torch.from_numpy(key_R_L).to(device),
        visible_R_1_Q_L=None
        if visible_R_Q_L is None
        else torch.from_numpy(visible_R_Q_L[:, None]).to(device),
    )


def _tensor(values: Sequence[Ints], device: torch.device) -> torch.Tensor:
    """All values, one after the other, as integers of 64 bits."""
    joined = np.concatenate(values) if values else np.zeros(0)
    return torch.from_numpy(joined.astype(np.int64)).to(device)
