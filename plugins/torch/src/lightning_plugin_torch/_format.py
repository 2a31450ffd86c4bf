"""What a chat format can do: render, and read answers back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightning_plugin_torch._messages import Message, Tool
from lightning_plugin_torch._pieces import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A part of an answer: text, or a part of a tool call.

    Attributes:
        text: Text of the message itself.
        call: Index of the tool call; -1 for text.
        name: The function, in the first part of a call only.
        arguments: Next part of the arguments string.
    """

    text: str = ""
    call: int = -1
    name: str = ""
    arguments: str = ""


class Reader(Protocol):
    """Reads one answer token by token."""

    @property
    def stopped(self) -> bool:
        """A stop string was found; nothing after it is text."""
        ...

    def push(self, token: int) -> list[Delta]:
        """What the token adds; nothing while a character or a stop string may be incomplete."""
        ...

    def finish(self) -> list[Delta]:
        """What was held back."""
        ...


class ChatFormat(Protocol):
    """How conversations become tokens and tokens become answers.

    Attributes:
        end_ids: Tokens that end an answer.
        end_names: Their names in the vocabulary.
    """

    end_ids: frozenset[int]
    end_names: frozenset[str]

    def pieces(self, messages: Sequence[Message], tools: Sequence[Tool], *, generate: bool) -> list[Piece]:
        """Renders a conversation, with the start of the next answer if `generate`."""
        ...

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of pieces."""
        ...

    def reader(self, stops: Sequence[str]) -> Reader:
        """A reader for one answer, which ends at the first of `stops`."""
        ...
