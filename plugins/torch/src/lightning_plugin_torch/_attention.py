"""Attention over token trees: each token is computed once, and sees its ancestors.

A forest is laid out flat, `[T]`. Trees are cut into segments: chains in which each token is the parent of the next.
For attention alone, a segment's queries meet the keys of its whole path from the root, gathered into rows, so that no
work is spent on pairs of tokens on different branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "agentlightning_forest"


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of similar size, as rows.

    Attributes:
        query_R_Q: Places of the queries in `[T]`; padded with 0.
        key_R_L: Places of the keys in `[T]`, from the root on; padded with 0.
        visible_R_1_Q_L: Which key each query sees; a padded query sees at least one.
    """

    query_R_Q: torch.Tensor
    key_R_L: torch.Tensor
    visible_R_1_Q_L: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Tokens of several trees, and who sees whom.

    Attributes:
        token_ids_T: Tokens, parents before children.
        positions_T: Their positions.
        blocks: Every token is a query exactly once.
        where_T: Place of each token among the flattened queries of all blocks, padding included.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    blocks: tuple[Block, ...]
    where_T: torch.Tensor


def register_attention() -> None:
    """Makes the attention known to `transformers` by name; doing so again changes nothing."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention of a forest when there is a layout, else plain attention with the mask.

    Args:
        query: `[1, H, T, D]`; with a layout the batch is one forest.
        key: `[1, K, T, D]`; K divides H.
        value: `[1, K, T, D]`.

    Returns:
        `[1, T, H, D]`.
    """
    if layout is None:
        plain: Any = sdpa_attention_forward
        attended: tuple[torch.Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return attended
    query_T_H_D, key_T_K_D, value_T_K_D = (part[0].transpose(0, 1) for part in (query, key, value))
    rows = [
        torch.nn.functional.scaled_dot_product_attention(
            query_T_H_D[block.query_R_Q].transpose(1, 2),
            key_T_K_D[block.key_R_L].transpose(1, 2),
            value_T_K_D[block.key_R_L].transpose(1, 2),
            attn_mask=block.visible_R_1_Q_L,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for block in layout.blocks
    ]
    return torch.cat(rows)[layout.where_T][None], None
