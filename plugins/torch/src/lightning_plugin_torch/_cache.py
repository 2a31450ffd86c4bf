"""Key-value caches of fixed shapes, so that a row's numbers never depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lightning_plugin_torch._answer import Answer
from lightning_plugin_torch._blocks import Block


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


class Rows:
    """Blocks of several prompts, one row each, after the blocks before them.

    Args:
        pieces: Tokens of each row, and the blocks before them.
        start: Tokens before, in every row alike.
        width: Tokens of a row; shorter ones have padding before them that sees and is seen by nothing else.
    """

    def __init__(
        self, pieces: Sequence[tuple[Sequence[int], Sequence[Block]]], *, start: int, width: int
    ) -> None:
        self._pieces = pieces
        self._start = start
        self._width = width
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def feed(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens `[R, W]`, their positions `[R, W]`, and what each may see `[R, 1, W, start + W]`."""
        pads = [self._width - len(tokens) for tokens, _ in self._pieces]
        ids_R_W = torch.tensor(
            [[0] * pad + list(tokens) for pad, (tokens, _) in zip(pads, self._pieces, strict=True)],
            device=device,
        )
        pad_R_1 = torch.tensor(pads, device=device)[:, None]
        place_W = torch.arange(self._width, device=device)
        own_R_W = place_W >= pad_R_1
        causal_W_W = place_W <= place_W[:, None]
        among_R_W_W = (causal_W_W & own_R_W[:, None, :]) | torch.eye(
            self._width, dtype=torch.bool, device=device
        )
        before_R_W_P = own_R_W[:, :, None].expand(-1, -1, self._start)
        visible_R_W_L = torch.cat([before_R_W_P, among_R_W_W], dim=2)
        positions_R_W = (self._start + place_W - pad_R_1).clamp(min=0)
        return ids_R_W, positions_R_W, visible_R_W_L[:, None]

    def read(self, row: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values of a row's own tokens, per layer `[H, T, D]`, in memory of their own."""
        tokens, _ = self._pieces[row]
        keys, values = (
            [tensor[row, :, -len(tokens) :].clone(memory_format=torch.contiguous_format) for tensor in layers]
            for layers in (self._keys, self._values)
        )
        return keys, values

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps one layer's new keys and values, and gives them after those of the blocks before."""
        self._keys.append(key)
        self._values.append(value)
        if not self._start:
            return key, value
        return (
            torch.cat([self._before([[b.keys[layer] for b in chain] for _, chain in self._pieces]), key], 2),
            torch.cat(
                [self._before([[b.values[layer] for b in chain] for _, chain in self._pieces]), value], 2
            ),
        )

    def get_seq_length(self, *_: object) -> int:
        """Positions are given explicitly; nothing is derived from a length."""
        return 0

    @staticmethod
    def _before(blocks: list[list[torch.Tensor]]) -> torch.Tensor:
        """Blocks of each row, joined: `[R, H, start, D]`."""
        return torch.stack([torch.cat(chain, dim=1) for chain in blocks])


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

    def put(self, answer: Answer, blocks: Sequence[Block]) -> None:
        """Gives a row to an answer with the keys and values it has so far."""
        if not self._keys:
            self._keys = [self._zeros(key) for key in blocks[0].keys]
            self._values = [self._zeros(value) for value in blocks[0].values]
        row, at = len(self.answers), 0
        for block in blocks:
            for mine, theirs in zip((*self._keys, *self._values), (*block.keys, *block.values), strict=True):
                mine[row, :, at : at + block.length] = theirs
            at += block.length
        self.answers.append(answer)

    def read(self, answer: Answer) -> Block:
        """Keys and values of an answer, valid until the page changes."""
        row = self.answers.index(answer)
        return Block([key[row] for key in self._keys], [value[row] for value in self._values])

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
