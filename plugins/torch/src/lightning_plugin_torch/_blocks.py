"""Keys and values of prompts in blocks, kept for the prompts to come.

Block `i` of a prompt holds its tokens from `i * size` on. Its numbers are a pure function of the weights and of the
tokens up to its end, because every block is computed in the same shapes whatever request needs it. So a prompt that
finds blocks of an earlier one gets bit by bit what it would have computed itself.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

ROOT = -1
_serials = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A few tokens of a prompt.

    Attributes:
        keys: Per layer `[H, T, D]`.
        values: Per layer `[H, T, D]`.
        logits_V: Logits after its last token; None unless a prompt ended there.
        serial: Tells it apart from every other block.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    logits_V: torch.Tensor | None = None
    serial: int = field(default_factory=lambda: next(_serials))

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.keys[0].shape[1]

    @property
    def size_bytes(self) -> int:
        """Memory that it holds."""
        tensors = [*self.keys, *self.values, *([] if self.logits_V is None else [self.logits_V])]
        return sum(tensor.nbytes for tensor in tensors)


Key = tuple[int, tuple[int, ...]]
"""Serial of the block before, and the tokens."""


class PrefixCache:
    """The blocks used last, up to a number of bytes.

    A chain is used from its end to its start, so that a block is never dropped before those that follow it.

    Attributes:
        size_bytes: Memory of the blocks that are kept.
        evicted: How many were dropped to make room.
    """

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self.size_bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Blocks that are kept."""
        return len(self._blocks)

    def find(self, chain: Sequence[Block], tokens: tuple[int, ...]) -> Block | None:
        """The block of these tokens after a chain of blocks."""
        return self._blocks.get(key_of(chain, tokens))

    def keep(self, chain: Sequence[Block], tokens: tuple[int, ...], block: Block) -> None:
        """Keeps a block; one of the same tokens after the same chain is replaced."""
        key = key_of(chain, tokens)
        old = self._blocks.pop(key, None)
        self._blocks[key] = block
        self.size_bytes += block.size_bytes - (old.size_bytes if old else 0)

    def touch(self, prompt: Sequence[int], chain: Sequence[Block]) -> None:
        """Marks the blocks of a prompt as just used, and drops others until the rest fits."""
        for key in reversed(list(_keys(prompt, chain))):
            if key in self._blocks:
                self._blocks.move_to_end(key)
        while self.size_bytes > self._limit_bytes and self._blocks:
            _, dropped = self._blocks.popitem(last=False)
            self.size_bytes -= dropped.size_bytes
            self.evicted += 1

    def clear(self) -> None:
        """Drops all of them: the weights have changed."""
        self._blocks.clear()
        self.size_bytes = 0


def key_of(chain: Sequence[Block], tokens: tuple[int, ...]) -> Key:
    """What a block of these tokens after a chain of blocks is found by."""
    return chain[-1].serial if chain else ROOT, tokens


def _keys(prompt: Sequence[int], chain: Sequence[Block]) -> Iterator[Key]:
    before, at = ROOT, 0
    for block in chain:
        yield before, tuple(prompt[at : at + block.length])
        before, at = block.serial, at + block.length
