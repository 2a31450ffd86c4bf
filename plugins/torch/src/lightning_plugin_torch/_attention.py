"""Attention over token trees: each token is computed once, and sees its ancestors.

A forest is laid out flat, `[T]`. Trees are cut into segments: chains in which each token is the parent of the next.
For attention alone, a segment's queries meet the keys of its whole path from the root, gathered into rows, so that no
work is spent on pairs of tokens on different branches. Or, with FlexAttention, nothing is gathered: see `_flex`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agentlightning.errors import ConfigError
from lightning_plugin_torch._flex import subtree_attention

ATTENTION = "agentlightning_forest"
UNKNOWN = ("s_aux", "sinks", "softcap", "position_bias")
"""What some architectures hand to attention that changes its scores."""


class Attends(Protocol):
    """What a layer's queries, keys and values are handed to."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attention of one flat forest, `[1, Q, H, D]`.

        Args:
            query: `[1, H, Q, D]`.
            key: `[1, K, T, D]`; K divides H.
            value: `[1, K, T, D]`.
            scaling: Factor of the scores; None is one over the root of D.
        """
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of similar size, as rows.

    Attributes:
        query_R_Q: Which queries; padded with 0.
        key_R_L: Places of the keys in `[T]`, from the root on; padded with 0.
        visible_R_1_Q_L: Which key each query sees, once if it is the same in all rows; a padded query sees at least
            one. None if there are as many keys as queries, and each query sees the keys up to its own.
        first_query: The first query if all follow it without padding, row by row; else -1.
        first_key: Likewise.
    """

    query_R_Q: torch.Tensor
    key_R_L: torch.Tensor
    visible_R_1_Q_L: torch.Tensor | None
    first_query: int
    first_key: int


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Which tokens of a flat forest some queries see.

    Attributes:
        blocks: Every query is in exactly one; none with a mask.
        where_Q: Place of each query among those of all blocks, padding included; None if those are the queries as they
            lie.
        mask: FlexAttention's view of who sees whom; None if attention goes by blocks.
    """

    blocks: tuple[Block, ...]
    where_Q: torch.Tensor | None
    mask: BlockMask | None = None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attention of one flat forest; see `Attends`."""
        if self.mask is not None:
            return subtree_attention(query, key, value, mask=self.mask, scaling=scaling)
        query_Q_H_D, key_T_K_D, value_T_K_D = (part[0].transpose(0, 1) for part in (query, key, value))
        rows = [
            torch.nn.functional.scaled_dot_product_attention(
                _rows(query_Q_H_D, block.query_R_Q, first=block.first_query),
                _rows(key_T_K_D, block.key_R_L, first=block.first_key),
                _rows(value_T_K_D, block.key_R_L, first=block.first_key),
                attn_mask=block.visible_R_1_Q_L,
                is_causal=block.visible_R_1_Q_L is None,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
            .transpose(1, 2)
            .flatten(0, 1)
            for block in self.blocks
        ]
        joined = torch.cat(rows) if len(rows) > 1 else rows[0]
        return (joined if self.where_Q is None else joined.index_select(0, self.where_Q))[None]


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """Tokens of whose last hidden states something is predicted; of the others, the last layer needs only keys.

    Attributes:
        place_U: Their places, rising.
        rest_P: All other places, rising.
        sight: What they see.
    """

    place_U: torch.Tensor
    rest_P: torch.Tensor
    sight: Sight


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Tokens of several trees, and who sees whom.

    Attributes:
        token_ids_T: Tokens, depth first: each is followed by all that descends from it.
        positions_T: Their positions.
        end_T: One past the last descendant of each token, or past itself.
        sight: What each sees.
        used: Those whose last hidden states are used; None if they are not few enough to be worth it.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    end_T: torch.Tensor
    sight: Sight
    used: Used | None = None


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
    sight: Attends | None = None,
    scaling: float | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention of a forest when it is told who sees whom, else plain attention with the mask.

    Args:
        query: `[1, H, T, D]`; with `sight` the batch is one forest.
        key: `[1, K, T, D]`; K divides H.
        value: `[1, K, T, D]`.

    Returns:
        `[1, T, H, D]`.

    Raises:
        ConfigError: The architecture wants other scores than these.
    """
    if wanted := [name for name in UNKNOWN if options.get(name) is not None]:
        raise ConfigError(
            f"{type(module).__name__} changes attention by {', '.join(wanted)}, which engine 'torch' does not compute; "
            "choose another architecture, or another engine"
        )
    if sight is not None:
        return sight.attend(query, key, value, scaling=scaling), None
    plain: Any = sdpa_attention_forward
    attended: tuple[torch.Tensor, None] = plain(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return attended


def _rows(part_T_H_D: torch.Tensor, places_R_L: torch.Tensor, *, first: int) -> torch.Tensor:
    """Tokens as rows, `[R, H, L, D]`: a view if they lie like that, else gathered."""
    if first >= 0:
        lying = part_T_H_D[first : first + places_R_L.numel()]
    else:
        lying = part_T_H_D.index_select(
            0, places_R_L.flatten()
        )  # its gradient is much cheaper than that of [...]
    return lying.reshape(*places_R_L.shape, *lying.shape[1:]).transpose(1, 2)
