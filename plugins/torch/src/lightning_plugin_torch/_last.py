"""The last layer, computed only where its output is used.

Of a token from which nothing is predicted, the last layer needs keys and values, and nothing that comes after. So the
layer is called twice: with those tokens, until it asks for attention, and with the others. No layer's code is repeated
here, and whatever a layer does to its keys is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from lightning_plugin_torch._attention import Used


class Way(StrEnum):
    """How the last layer can be called.

    Attributes:
        FULL: With all tokens only.
        SHORT: It returns only the tokens that are used, and the model carries on with them.
        SPREAD: It returns them among zeros, because the model counts on as many tokens as it was given.
    """

    FULL = "full"
    SHORT = "short"
    SPREAD = "spread"


@dataclass(slots=True)
class LastLayer:
    """What was found out about a model's last layer; a copy of the model shares it.

    Attributes:
        way: How it can be called; None until it was tried out.
    """

    way: Way | None = None


def called(
    forward: Callable[..., torch.Tensor], *args: object, used: Used, spread: bool, **kwargs: object
) -> torch.Tensor:
    """The output of a layer for some tokens.

    Args:
        forward: The layer.
        *args: What it is called with, for all tokens `T`: hidden states `[1, T, D]` first.
        used: Tokens whose output is used.
        spread: Whether the others get zeros as their output, instead of none.
        **kwargs: Likewise.

    Returns:
        `[1, U, D]`, or `[1, T, D]` if spread.

    Raises:
        RuntimeError: The layer has no attention that is told who sees whom.
    """
    size = len(used.place_U) + len(used.rest_P)
    rest = _Keys()
    try:
        forward(*_pick(args, used.rest_P, of=size), **{**_pick(kwargs, used.rest_P, of=size), "sight": rest})
    except _Enough:
        pass
    else:
        raise RuntimeError("the layer does not call the attention that it was given")
    output_1_U_D = forward(
        *_pick(args, used.place_U, of=size),
        **{**_pick(kwargs, used.place_U, of=size), "sight": _Joined(used, rest)},
    )
    if not spread:
        return output_1_U_D
    zeros_1_T_D = output_1_U_D.new_zeros(1, size, output_1_U_D.shape[2])
    return zeros_1_T_D.index_copy(1, used.place_U, output_1_U_D)


class _Enough(Exception):
    """A layer is left: its keys and values are known."""


class _Keys:
    """Takes keys and values, and ends the layer.

    Attributes:
        key: `[1, K, P, D]`.
        value: `[1, K, P, D]`.
    """

    key: torch.Tensor
    value: torch.Tensor

    def attend(
        self,
        query: torch.Tensor,  # noqa: ARG002
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Never returns."""
        self.key, self.value = key, value
        raise _Enough


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """Attention of the tokens that are used, to all."""

    used: Used
    rest: _Keys

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attention to the keys of both calls, as the tokens lie."""
        return self.used.sight.attend(
            query, self._all(self.rest.key, key), self._all(self.rest.value, value), scaling=scaling
        )

    def _all(self, rest: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """`[1, K, T, D]`; token after token in memory, as layers lay their keys out."""
        heads, size = own.shape[1], rest.shape[2] + own.shape[2]
        joined_T_K_D = own.new_empty(size, heads, own.shape[3])
        joined_T_K_D.index_copy_(0, self.used.rest_P, rest[0].transpose(0, 1))
        joined_T_K_D.index_copy_(0, self.used.place_U, own[0].transpose(0, 1))
        return joined_T_K_D.transpose(0, 1)[None]


def _pick(given: Any, place_K: torch.Tensor, *, of: int) -> Any:  # noqa: ANN401 - whatever layers are called with
    """The same for some of `of` tokens: tensors `[1, of]` of numbers and `[1, of, …]`, wherever they are."""
    if isinstance(given, torch.Tensor):
        whole = given.ndim in (2, 3) and tuple(given.shape[:2]) == (1, of)
        return given.index_select(1, place_K) if whole else given
    if isinstance(given, tuple):
        return tuple(_pick(one, place_K, of=of) for one in given)
    if isinstance(given, Mapping):
        return {name: _pick(one, place_K, of=of) for name, one in given.items()}
    return given
