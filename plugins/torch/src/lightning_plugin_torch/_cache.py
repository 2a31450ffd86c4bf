"""Key-value caches of fixed shapes, so that a row's numbers never depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lightning_plugin_torch._answer import Answer


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
    """Keys and values of answers of up to `capacity` tokens, one row each.

    The rows in use come first. A step computes one of a few fixed numbers of rows, each over the whole capacity; what a
    row does not see is masked.

    Attributes:
        answers: Who has which row.
    """

    def __init__(self, *, sizes: Sequence[int], capacity: int) -> None:
        self.capacity = capacity
        self.answers: list[Answer] = []
        self._sizes = sizes
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._rows_S = torch.arange(0)
        self._position_S = torch.zeros(0, dtype=torch.long)

    @property
    def full(self) -> bool:
        """Whether every row is taken."""
        return len(self.answers) == self._sizes[-1]

    def put(self, answer: Answer, *, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Gives a row to an answer with the keys and values it has so far, per layer `[H, T, D]`."""
        if not self._keys:
            self._keys = [self._zeros(key) for key in keys]
            self._values = [self._zeros(value) for value in values]
        for mine, theirs in zip((*self._keys, *self._values), (*keys, *values), strict=True):
            mine[len(self.answers), :, : theirs.shape[1]] = theirs
        self.answers.append(answer)

    def read(self, answer: Answer) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values of an answer, per layer `[H, C, D]`, valid until the page changes."""
        row = self.answers.index(answer)
        return [key[row] for key in self._keys], [value[row] for value in self._values]

    def drop(self, answer: Answer) -> None:
        """Frees an answer's row; the last row moves there."""
        row, last = self.answers.index(answer), self.answers.pop()
        if last is not answer:
            self.answers[row] = last
            for tensor in (*self._keys, *self._values):
                tensor[row] = tensor[len(self.answers)]

    def feed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Last tokens `[S, 1]`, their positions `[S, 1]`, and what each may see `[S, 1, 1, C]`."""
        size = next(size for size in self._sizes if size >= len(self.answers))
        idle, device = [0] * (size - len(self.answers)), self._keys[0].device
        self._rows_S = torch.arange(size, device=device)
        self._position_S = torch.tensor([answer.position for answer in self.answers] + idle, device=device)
        ids_S = torch.tensor([answer.tokens[-1].id for answer in self.answers] + idle, device=device)
        visible_S_C = torch.arange(self.capacity, device=device) <= self._position_S[:, None]
        return ids_S[:, None], self._position_S[:, None], visible_S_C[:, None, None, :]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one layer's new keys and values, `[S, H, 1, D]`, at each row's own position."""
        self._keys[layer][self._rows_S, :, self._position_S] = key[:, :, 0]
        self._values[layer][self._rows_S, :, self._position_S] = value[:, :, 0]
        return self._keys[layer][: len(key)], self._values[layer][: len(value)]

    def get_seq_length(self, *_: object) -> int:
        """Positions are given explicitly; nothing is derived from a length."""
        return 0

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        heads, _, size = like.shape
        return like.new_zeros((self._sizes[-1], heads, self.capacity, size))
