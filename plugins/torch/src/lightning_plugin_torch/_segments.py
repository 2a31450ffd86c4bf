"""Segments of token trees as blocks: queries and keys in rows, for attention without FlexAttention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lightning_plugin_torch._attention import Block, Sight
from lightning_plugin_torch._runs import Ints
from lightning_plugin_torch._sizes import round_up


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Queries on one path, by places in the layout.

    Attributes:
        path_L: Tokens from the root to the last query.
        query_Q: Which of those are queries, rising.
    """

    path_L: Ints
    query_Q: Ints

    @classmethod
    def of(cls, path_L: Ints, *, start: int) -> Segment:
        """All of a path from some token on."""
        return cls(path_L, np.arange(start, len(path_L)))

    def only(self, chosen_T: npt.NDArray[np.bool_]) -> Segment:
        """Those of its queries that are chosen."""
        query_Q = self.query_Q[chosen_T[self.path_L[self.query_Q]]]
        return Segment(self.path_L[: query_Q[-1] + 1] if len(query_Q) else self.path_L[:0], query_Q)

    @property
    def causal(self) -> bool:
        """Whether its queries are all of its path."""
        return len(self.query_Q) == len(self.path_L)

    @property
    def shape(self) -> tuple[bool, int, int]:
        """Whether it is causal; queries and keys, rounded up so that similar segments share a block."""
        return (
            self.causal,
            round_up(len(self.query_Q), least=16),
            round_up(len(self.path_L), least=16),
        )


def sight_of(segments: Sequence[Segment], query_T: Ints, *, device: torch.device) -> Sight:
    """What the queries of segments see, each segment as a row of a block of its shape.

    Args:
        segments: Every query is in exactly one.
        query_T: Which query each token of the layout is.
        device: Where the tensors go.
    """
    by_shape: defaultdict[tuple[bool, int, int], list[Segment]] = defaultdict(list)
    for segment in segments:
        by_shape[segment.shape].append(segment)
    where_Q = np.zeros(sum(len(segment.query_Q) for segment in segments), dtype=np.int64)
    blocks: list[Block] = []
    offset = 0
    for members in by_shape.values():
        block = _block(members, query_T, device=device)
        rows, queries = block.query_R_Q.shape
        for row, segment in enumerate(members):
            own = query_T[segment.path_L[segment.query_Q]]
            where_Q[own] = offset + row * queries + np.arange(len(own))
        blocks.append(block)
        offset += rows * queries
    same = offset == len(where_Q) and bool((where_Q == np.arange(offset)).all())
    return Sight(tuple(blocks), None if same else torch.from_numpy(where_Q).to(device))


def _block(segments: Sequence[Segment], query_T: Ints, *, device: torch.device) -> Block:
    size = len(segments), max(len(segment.query_Q) for segment in segments)
    query_R_Q, offset_R_Q = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    key_R_L = np.zeros((size[0], max(len(segment.path_L) for segment in segments)), dtype=np.int64)
    for row, segment in enumerate(segments):
        offset_R_Q[row, : len(segment.query_Q)] = segment.query_Q
        query_R_Q[row, : len(segment.query_Q)] = query_T[segment.path_L[segment.query_Q]]
        key_R_L[row, : len(segment.path_L)] = segment.path_L
    return Block(
        query_R_Q=torch.from_numpy(query_R_Q).to(device),
        key_R_L=torch.from_numpy(key_R_L).to(device),
        visible_R_1_Q_L=None if segments[0].causal else _visible(offset_R_Q, key_R_L.shape[1], device=device),
        first_query=_first(query_R_Q),
        first_key=_first(key_R_L),
    )


def _visible(offset_R_Q: Ints, keys: int, *, device: torch.device) -> torch.Tensor:
    """`[R, 1, Q, L]`, or one row if all are alike."""
    if (offset_R_Q == offset_R_Q[0]).all():
        offset_R_Q = offset_R_Q[:1]
    visible_R_Q_L = np.arange(keys) <= offset_R_Q[:, :, None]
    return torch.from_numpy(visible_R_Q_L[:, None]).to(device)


def _first(place_R_L: Ints) -> int:
    """The first place if all others follow it, else -1."""
    flat = place_R_L.flatten()
    return int(flat[0]) if (flat == flat[0] + np.arange(len(flat))).all() else -1
