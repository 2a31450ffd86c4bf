"""FlexAttention over subtrees: blocks of tokens of which none sees another are not computed.

Tokens lie depth first, so a token's descendants are those from itself to an end, and a query sees a key exactly if
it lies there. Whole blocks are judged by the smallest and largest end in them, never by pairs of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions, flex_attention

Sees = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

BLOCK = 128
"""Tokens of a side of a block: what FlexAttention's kernels are written for."""

TRAINED: FlexKernelOptions = {"FORCE_USE_FLEX_ATTENTION": True}
"""Few queries get the same kernel as many, not the one that is made for sampling."""


def subtree_mask(end_T: torch.Tensor, place_Q: torch.Tensor | None = None) -> BlockMask:
    """Who sees whom.

    Args:
        end_T: One past the last descendant of each token; tokens are in depth-first order.
        place_Q: Places of the tokens that are queries, rising; None is all.
    """
    size, device = len(end_T), end_T.device
    queries = size if place_Q is None else len(place_Q)
    blocks, query_blocks = -(-size // BLOCK), -(-queries // BLOCK)
    padding = torch.arange(size, blocks * BLOCK, device=device) + 1
    end_P = torch.cat((end_T, padding))  # kernels look up whole blocks
    end_B_S = end_P.view(blocks, BLOCK)
    low_B, high_B = end_B_S.amin(1), end_B_S.amax(1)
    first_B = torch.arange(blocks, device=device) * BLOCK
    from_A_1, to_A_1 = _spans(place_Q, blocks=query_blocks, device=device)
    some_A_B = (first_B <= to_A_1) & (high_B > from_A_1)
    whole_A_B = (first_B + BLOCK - 1 <= from_A_1) & (low_B > to_A_1)
    return BlockMask.from_kv_blocks(
        *_listed(some_A_B & ~whole_A_B),
        *_listed(whole_A_B),
        BLOCK_SIZE=BLOCK,
        mask_mod=_among_all(end_P) if place_Q is None else _among(place_Q, end_P, size=query_blocks * BLOCK),
        seq_lengths=(queries, size),
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
    compiled = query.device.type == "cuda"
    attend = _compiled() if compiled else flex_attention
    found: Any = attend(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
        kernel_options=TRAINED if compiled else None,
    )
    attended: torch.Tensor = found
    return attended.transpose(1, 2)


@cache
def _compiled() -> Any:  # noqa: ANN401 - what torch.compile returns has no narrower type
    """The kernel; only compiled does it skip blocks."""
    return torch.compile(flex_attention, dynamic=True)


def _among_all(end_P: torch.Tensor) -> Sees:
    """Whether the query at one place sees the key at another."""

    def sees(_batch: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (q < end_P[k])

    return sees


def _among(place_Q: torch.Tensor, end_P: torch.Tensor, *, size: int) -> Sees:
    """Whether a query, by its number, sees the key at a place; padded to `size` queries."""
    place_P = torch.cat((place_Q, place_Q[-1:].expand(size - len(place_Q))))

    def sees(_batch: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        place = place_P[q]
        return (k <= place) & (place < end_P[k])

    return sees


def _spans(
    place_Q: torch.Tensor | None, *, blocks: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last place of the queries of each block, `[A, 1]`."""
    if place_Q is None:
        from_A = torch.arange(blocks, device=device) * BLOCK
        return from_A[:, None], (from_A + BLOCK - 1)[:, None]
    from_A = place_Q[::BLOCK]
    to_A = torch.cat((place_Q[BLOCK - 1 :: BLOCK], place_Q[-1:]))[:blocks]
    return from_A[:, None], to_A[:, None]


def _listed(chosen_A_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of blocks how many are chosen, and which, those first; with axes for batch and heads."""
    which_A_B = chosen_A_B.int().argsort(dim=1, descending=True, stable=True)
    return chosen_A_B.sum(1).int()[None, None], which_A_B.int()[None, None]
