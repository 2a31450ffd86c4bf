"""A small tree, on which is tried out how an architecture computes."""

from __future__ import annotations

from array import array

import numpy as np
import torch

from agentlightning.types import TokenTree
from lightning_plugin_torch._layout import Batch, lay_out
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._runs import Runs

TOKEN_IDS = (1, 2, 3, 4, 0, 5, 4, 0)
PARENTS = (-1, 0, 1, 2, 3, 1, 5, 6)
ENDS = (4, 7)


def small_batch(*, device: torch.device, sparse: bool) -> tuple[Batch, list[tuple[int, ...]]]:
    """Two branches of which the last tokens are wanted, and for each of those the tokens before it.

    Args:
        device: Where the tensors go.
        sparse: As for `lay_out`.
    """
    tree = _tree(array("i", TOKEN_IDS), array("i", PARENTS))
    runs = Runs.of(tree)
    nodes_K = np.array(ENDS)
    part = Part(0, tree, runs, nodes_K, runs.ancestors(runs.last_wanted(nodes_K)))
    return lay_out([part], device=device, sparse=sparse), [tuple(tree.path(end)[:-1]) for end in ENDS]


def _tree(token_ids: array[int], parents: array[int]) -> TokenTree:
    positions = array("i")
    for parent in parents:
        positions.append(positions[parent] + 1 if parent >= 0 else 0)
    zeros = array("f", bytes(4 * len(token_ids)))
    return TokenTree(
        group="",
        token_ids=token_ids,
        parents=parents,
        positions=positions,
        logprobs=zeros,
        versions=array("i", [-1] * len(token_ids)),
        advantages=zeros,
        weights=zeros,
        calls=(),
    )
