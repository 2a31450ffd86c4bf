"""A token tree as runs: chains of nodes, each the child of the node before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentlightning.types import TokenTree

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """A chain of nodes that lie one after the other.

    Attributes:
        start: First node.
        depth: Its position.
        parent: Node that it hangs on; -1 for none.
        above: Index of the run of that node; -1 for none.
    """

    start: int
    depth: int
    parent: int
    above: int


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """All runs of a tree, in order of their first nodes.

    Attributes:
        runs: The runs.
        starts_R: First node of each.
    """

    runs: tuple[Run, ...]
    starts_R: Ints

    @classmethod
    def of(cls, tree: TokenTree) -> Runs:
        """Cuts a tree into runs."""
        parents_N = np.frombuffer(tree.parents, dtype=np.int32)
        first_N = parents_N != np.arange(-1, len(parents_N) - 1)
        first_N[:1] = True
        starts_R = np.flatnonzero(first_N)
        above_R = np.searchsorted(starts_R, parents_N[starts_R], side="right") - 1
        runs = tuple(
            Run(start, tree.positions[start], tree.parents[start], above)
            for start, above in zip(starts_R.tolist(), above_R.tolist(), strict=True)
        )
        return cls(runs, starts_R)

    def last_wanted(self, nodes: Ints) -> dict[int, int]:
        """Of each run with a wanted node, the last one.

        Args:
            nodes: Wanted nodes, ascending.
        """
        of_K = np.searchsorted(self.starts_R, nodes, side="right") - 1
        last_K = np.flatnonzero(np.append(of_K[1:] != of_K[:-1], True))
        return dict(zip(of_K[last_K].tolist(), nodes[last_K].tolist(), strict=True))

    def ancestors(self, last: Mapping[int, int]) -> dict[int, int]:
        """How many nodes at the start of each run have to be computed to predict wanted ones; absent for none."""
        counts: dict[int, int] = {}
        for index, node in last.items():
            self.add_ancestors(counts, index, node)
        return counts

    def add_ancestors(self, counts: dict[int, int], index: int, node: int) -> int:
        """Adds what a wanted node of a run needs to `counts`; returns by how many nodes they grew."""
        wanted, grew = node - self.runs[index].start, 0
        while True:
            had = counts.get(index, 0)
            if wanted > had:
                counts[index] = wanted
                grew += wanted - had
            if had:
                return grew
            run = self.runs[index]
            if run.above < 0:
                return grew
            index, wanted = run.above, run.parent - self.runs[run.above].start + 1

    def depth_first(self, chosen: Iterable[int]) -> list[int]:
        """Orders runs so that all that hangs on one node follows it before what hangs nearer to the root.

        Args:
            chosen: Indices of runs; with each, all above it.
        """
        below: dict[int, list[int]] = {}
        for index in sorted(chosen):
            below.setdefault(self.runs[index].above, []).append(index)
        order: list[int] = []
        stack = below.get(-1, [])[::-1]
        while stack:
            index = stack.pop()
            order.append(index)
            stack += sorted(below.get(index, ()), key=lambda run: (self.runs[run].parent, -run))
        return order
