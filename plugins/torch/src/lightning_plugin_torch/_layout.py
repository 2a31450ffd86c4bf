"""Lays token trees out for the forest attention."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from agentlightning.types import TokenTree
from lightning_plugin_torch._attention import Block, Layout
from lightning_plugin_torch._sizes import round_up


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A micro-batch: trees laid out, and the nodes whose log-probabilities are wanted.

    Attributes:
        layout: The tokens that have to be computed.
        parent_K: Place in the layout of the token that predicts each wanted node.
        target_K: Id of each wanted node.
        origin_K: Tree (its index in the forest) and node of each wanted node.
    """

    layout: Layout
    parent_K: torch.Tensor
    target_K: torch.Tensor
    origin_K: list[tuple[int, int]]


@dataclass(slots=True, eq=False)
class _Segment:
    """A chain of tokens, by places in the layout."""

    path: list[int]
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and keys, rounded up so that similar segments share a block."""
        return round_up(len(self.path) - self.start, least=16), round_up(len(self.path), least=16)


def plan(trees: Sequence[tuple[int, TokenTree, Sequence[int]]], *, limit: int) -> list[list[int]]:
    """Packs trees into micro-batches, in order, by the tokens that each needs.

    Args:
        trees: Index in the forest, tree, and wanted nodes.
        limit: Most tokens in a micro-batch; a larger tree is alone in one.

    Returns:
        Places in `trees`, by micro-batch.
    """
    batches: list[list[int]] = []
    room = 0
    for place, (_, tree, wanted) in enumerate(trees):
        size = sum(_needed(tree, wanted))
        if not batches or size > room:
            batches.append([])
            room = limit
        batches[-1].append(place)
        room -= size
    return batches


def lay_out(trees: Iterable[tuple[int, TokenTree, Sequence[int]]], *, device: torch.device) -> Batch:
    """Lays out what has to be computed to predict the wanted nodes: their ancestors.

    Args:
        trees: Index in the forest, tree, and wanted nodes with a parent.
        device: Where the tensors go.
    """
    flat = _Flat()
    parents, targets = array("l"), array("l")
    origins: list[tuple[int, int]] = []
    for index, tree, wanted in trees:
        place = flat.add(tree, _needed(tree, wanted))
        parents.extend(place[tree.parents[node]] for node in wanted)
        targets.extend(tree.token_ids[node] for node in wanted)
        origins.extend((index, node) for node in wanted)
    return Batch(
        layout=flat.layout(device),
        parent_K=torch.tensor(parents, device=device),
        target_K=torch.tensor(targets, device=device),
        origin_K=origins,
    )


def _needed(tree: TokenTree, wanted: Sequence[int]) -> bytearray:
    """Which nodes are an ancestor of a wanted one."""
    needed = bytearray(len(tree))
    for node in wanted:
        parent = tree.parents[node]
        while parent >= 0 and not needed[parent]:
            needed[parent] = 1
            parent = tree.parents[parent]
    return needed


class _Flat:
    """Tokens of several trees, one after the other, and the segments they form."""

    def __init__(self) -> None:
        self._ids, self._positions = array("l"), array("l")
        self._segments: list[_Segment] = []

    def add(self, tree: TokenTree, needed: bytearray) -> list[int]:
        """Appends a tree's needed nodes; returns each node's place, -1 for those left out."""
        place = [-1] * len(tree)
        segment_of: dict[int, _Segment] = {}
        for node in range(len(tree)):
            if not needed[node]:
                continue
            place[node] = len(self._ids)
            self._ids.append(tree.token_ids[node])
            self._positions.append(tree.positions[node])
            parent = tree.parents[node]
            segment = segment_of.get(parent)
            if segment is None or segment.path[-1] != place[parent]:
                depth = tree.positions[node]
                segment = _Segment(segment.path[:depth] if segment else [], depth)
                self._segments.append(segment)
            segment.path.append(place[node])
            segment_of[node] = segment
        return place

    def layout(self, device: torch.device) -> Layout:
        """Groups segments by shape into the rows of blocks."""
        by_shape: defaultdict[tuple[int, int], list[_Segment]] = defaultdict(list)
        for segment in self._segments:
            by_shape[segment.shape].append(segment)
        blocks, where, offset = [], [0] * len(self._ids), 0
        for members in by_shape.values():
            block = _block(members, device=device)
            rows, queries = block.query_R_Q.shape
            for row, segment in enumerate(members):
                for index, token in enumerate(segment.path[segment.start :]):
                    where[token] = offset + row * queries + index
            blocks.append(block)
            offset += rows * queries
        return Layout(
            token_ids_T=torch.tensor(self._ids, device=device),
            positions_T=torch.tensor(self._positions, device=device),
            blocks=tuple(blocks),
            where_T=torch.tensor(where, device=device),
        )


def _block(segments: list[_Segment], *, device: torch.device) -> Block:
    queries = max(len(segment.path) - segment.start for segment in segments)
    keys = max(len(segment.path) for segment in segments)
    query_rows = [_pad(segment.path[segment.start :], queries) for segment in segments]
    start_R = torch.tensor([segment.start for segment in segments], device=device)
    last_R_Q = start_R[:, None] + torch.arange(queries, device=device)
    visible_R_Q_L = torch.arange(keys, device=device) <= last_R_Q[:, :, None]
    return Block(
        query_R_Q=torch.tensor(query_rows, device=device),
        key_R_L=torch.tensor([_pad(segment.path, keys) for segment in segments], device=device),
        visible_R_1_Q_L=visible_R_Q_L[:, None],
    )


def _pad(places: list[int], size: int) -> list[int]:
    return places + [0] * (size - len(places))
