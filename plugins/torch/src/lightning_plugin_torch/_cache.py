"""Key-value caches of constant shape, so that a row's numbers never depend on its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lightning_plugin_torch._sequence import Sequence


@dataclass(slots=True, eq=False)
class Recorder:
    """Takes keys and values of a prefill; what a Hugging Face model calls its cache.

    Attributes:
        keys: Per layer `[1, H, T, D]`.
        values: Per layer `[1, H, T, D]`.
    """

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, _layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps one layer's keys and values."""
        self.keys.append(key)
        self.values.append(value)
        return key, value

    def get_seq_length(self, *_: object) -> int:
        """Tokens before those being fed: none."""
        return 0


class Page:
    """Keys and values of up to `rows` sequences of up to `capacity` tokens.

    A decoding step always computes all rows over the whole capacity; what a row does not see is masked.
    """

    def __init__(self, *, rows: int, capacity: int) -> None:
        self.capacity = capacity
        self.sequences: list[Sequence | None] = [None] * rows
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._rows_S = torch.arange(rows)
        self._position_S = torch.zeros(rows, dtype=torch.long)
        self._capacity_C = torch.arange(capacity)

    @property
    def free(self) -> int:
        """Index of an empty row; -1 if there is none."""
        return next((row for row, sequence in enumerate(self.sequences) if sequence is None), -1)

    @property
    def empty(self) -> bool:
        """Whether nobody is in it."""
        return not any(self.sequences)

    def put(self, row: int, sequence: Sequence, keys: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        """Gives a row to a sequence with the keys and values it has so far, per layer `[H, T, D]`."""
        if not self.keys:
            self.keys = [self._zeros(key) for key in keys]
            self.values = [self._zeros(value) for value in values]
            self._rows_S, self._capacity_C = (
                tensor.to(keys[0].device) for tensor in (self._rows_S, self._capacity_C)
            )
        for mine, theirs in zip((*self.keys, *self.values), (*keys, *values), strict=True):
            length = theirs.shape[1]
            mine[row, :, :length] = theirs
        self.sequences[row] = sequence

    def take(self, row: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values of a row, per layer `[H, C, D]`; the row is free afterwards."""
        self.sequences[row] = None
        return [key[row] for key in self.keys], [value[row] for value in self.values]

    def feed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Last tokens `[S, 1]`, their positions `[S, 1]`, and what each may see `[S, 1, 1, C]`."""
        device = self._rows_S.device
        ids_S = torch.tensor([s.tokens[-1].id if s else 0 for s in self.sequences], device=device)
        self._position_S = torch.tensor([s.position if s else 0 for s in self.sequences], device=device)
        visible_S_C = self._capacity_C <= self._position_S[:, None]
        return ids_S[:, None], self._position_S[:, None], visible_S_C[:, None, None, :]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one layer's new keys and values, `[S, H, 1, D]`, at each row's own position."""
        self.keys[layer][self._rows_S, :, self._position_S] = key[:, :, 0]
        self.values[layer][self._rows_S, :, self._position_S] = value[:, :, 0]
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, *_: object) -> int:
        """Positions are given explicitly; nothing is derived from a length."""
        return 0

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        heads, _, size = like.shape
        return like.new_zeros((len(self.sequences), heads, self.capacity, size))
