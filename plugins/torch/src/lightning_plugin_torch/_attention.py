"""Attention over token trees: each token is computed once, and sees its ancestors.

A forest is laid out flat, `[T]`. Trees are cut into segments: chains in which each token is the parent of the next.
For attention alone, a segment's queries meet the keys of its whole path from the root, gathered into rows, so that no
work is spent on pairs of tokens on different branches. Or, with FlexAttention, nothing is gathered: see `_flex`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lightning_plugin_torch._flex import subtree_attention

ATTENTION = "agentlightning_forest"


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of similar size, as rows.

    Attributes:
        query_R_Q: Places of the queries in `[T]`; padded with 0.
        key_R_L: Places of the keys in `[T]`, from the root on; padded with 0.
        visible_R_1_Q_L: Which key each query sees; a padded query sees at least one. None if queries and keys are the
            same tokens, and each sees those before it.
        first: Place of the first query if all follow it without padding, row by row; else -1.
    """

    query_R_Q: torch.Tensor
    key_R_L: torch.Tensor
    visible_R_1_Q_L: torch.Tensor | None
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Tokens of several trees, and who sees whom.

    Attributes:
        token_ids_T: Tokens, depth first: each is followed by all that descends from it.
        positions_T: Their positions.
        end_T: One past the last descendant of each token, or past itself.
        blocks: Every token is a query exactly once; none with a mask.
        where_T: Place of each token among the flattened queries of all blocks, padding included; None if those are the
            tokens as they lie.
        mask: FlexAttention's view of who sees whom; None if attention goes by blocks.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    end_T: torch.Tensor
    blocks: tuple[Block, ...]
    where_T: torch.Tensor | None
    mask: BlockMask | None = None


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
    if layout.mask is not None:
        return subtree_attention(query, key, value, mask=layout.mask, scaling=scaling), None
    query_T_H_D, key_T_K_D, value_T_K_D = (part[0].transpose(0, 1) for part in (query, key, value))
    rows = [
        torch.nn.functional.scaled_dot_product_attention(
            _rows(query_T_H_D, block.query_R_Q, first=block.first),
            _keys(key_T_K_D, block),
            _keys(value_T_K_D, block),
            attn_mask=block.visible_R_1_Q_L,
            is_causal=block.visible_R_1_Q_L is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for block in layout.blocks
    ]
    joined = torch.cat(rows) if len(rows) > 1 else rows[0]
    return (joined if layout.where_T is None else joined.index_select(0, layout.where_T))[None], None


def _keys(part_T_K_D: torch.Tensor, block: Block) -> torch.Tensor:
    if block.visible_R_1_Q_L is None:
        return _rows(part_T_K_D, block.query_R_Q, first=block.first)
    return _rows(part_T_K_D, block.key_R_L, first=-1)


def _rows(part_T_H_D: torch.Tensor, places_R_L: torch.Tensor, *, first: int) -> torch.Tensor:
    """Tokens as rows, `[R, H, L, D]`: a view if they lie like that, else gathered."""
    if first >= 0:
        lying = part_T_H_D[first : first + places_R_L.numel()]
    else:
        lying = part_T_H_D.index_select(
            0, places_R_L.flatten()
        )  # its gradient is much cheaper than that of [...]
    return lying.reshape(*places_R_L.shape, *lying.shape[1:]).transpose(1, 2)
