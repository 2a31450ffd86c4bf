"""Rendered conversations as pieces: plain text, and control tokens that no text can imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from agentlightning.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, by its name in the vocabulary."""

    token: str


Piece = str | Control


class PieceEncoder:
    """Turns pieces into ids; a control token's name inside plain text stays plain text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.encode_special_tokens = True
        self._ids = plain.get_vocab(with_added_tokens=True)

        @lru_cache(maxsize=65_536)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(plain.encode(text, add_special_tokens=False).ids)

        self._encode = encode

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of pieces, each encoded by itself."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids.extend(self._encode(piece))
            else:
                ids.append(self._ids[piece.token])
        return ids


def remainder(pieces: Sequence[Piece], prefix: Sequence[Piece]) -> list[Piece]:
    """What follows the prefix.

    Raises:
        ConfigError: The pieces do not start with the prefix.
    """
    rest = list(pieces[len(prefix) :])
    if not prefix or tuple(pieces[: len(prefix)]) == tuple(prefix):
        return rest
    last, mine = prefix[-1], pieces[len(prefix) - 1] if len(pieces) >= len(prefix) else ""
    same = tuple(pieces[: len(prefix) - 1]) == tuple(prefix[:-1])
    if same and isinstance(last, str) and isinstance(mine, str) and mine.startswith(last):
        return [mine[len(last) :], *rest]
    raise ConfigError(
        "the chat template writes earlier turns differently once the conversation goes on, so the tokens of a turn are "
        "not a prefix of those of the next; choose a template that only appends"
    )
