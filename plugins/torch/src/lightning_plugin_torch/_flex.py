"""FlexAttention over subtrees: blocks of tokens of which none sees another are not computed.

Tokens lie depth first, so a token's descendants are those from itself to an end, and a query sees a key exactly if
it lies there. Whole blocks are judged by the smallest and largest end in them, never by pairs of tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Tokens of a side of a block: what FlexAttention's kernels are written for."""


def subtree_mask(end_T: torch.Tensor) -> BlockMask:
    """Who sees whom.

    Args:
        end_T: One past the last descendant of each token; tokens are in depth-first order.
    """
    size = len(end_T)
    blocks = -(-size // BLOCK)
    padding = torch.arange(size, blocks * BLOCK, device=end_T.device) + 1
    end_P = torch.cat((end_T, padding))  # kernels look up whole blocks
    end_B_S = end_P.view(blocks, BLOCK)
    low_B, high_B = end_B_S.amin(1), end_B_S.amax(1)
    index_B = torch.arange(blocks, device=end_T.device)
    query_B_1 = index_B[:, None]
    before_B_B = index_B < query_B_1
    some_B_B = before_B_B & (high_B > query_B_1 * BLOCK)
    whole_B_B = before_B_B & (low_B >= (query_B_1 + 1) * BLOCK)
    partial_B_B = (some_B_B & ~whole_B_B) | (index_B == query_B_1)

    def sees(_batch: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (q < end_P[k])

    return BlockMask.from_kv_blocks(
        *_listed(partial_B_B),
        *_listed(whole_B_B),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(size, size),
    )


def subtree_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, mask: BlockMask, scaling: float | None
) -> torch.Tensor:
    """Attention of one flat forest, `[1, T, H, D]`.

    Args:
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`; K divides H.
        value: `[1, K, T, D]`.
        mask: Who sees whom.
        scaling: Factor of the scores; None is one over the root of D.
    """
    attend = _compiled() if query.device.type == "cuda" else flex_attention
    found: Any = attend(
        query, key, value, block_mask=mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    attended: torch.Tensor = found
    return attended.transpose(1, 2)


@cache
def _compiled() -> Any:  # noqa: ANN401 - what torch.compile returns has no narrower type
    """The kernel; only compiled does it skip blocks."""
    return torch.compile(flex_attention, dynamic=True)


def _listed(chosen_B_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of blocks how many are chosen, and which, those first; with axes for batch and heads."""
    which_B_B = chosen_B_B.int().argsort(dim=1, descending=True, stable=True)
    return chosen_B_B.sum(1).int()[None, None], which_B_B.int()[None, None]
