"""Conversations to token ids, with the exact tokens of turns that were sampled here."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from agentlightning.engine import Tokenized
from agentlightning.errors import ConfigError
from lightning_plugin_torch._format import ChatFormat, Reader
from lightning_plugin_torch._messages import Message, Tool
from lightning_plugin_torch._pieces import Control, Piece, remainder

TURNS_KEPT = 8192

Turn = tuple[tuple[Tool, ...], tuple[Message, ...]]


class Codec:
    """Renders prompts; safe to use from any thread.

    Tokenising sampled text again may give other tokens than were sampled. So the ids of each turn are kept, by the
    conversation up to and including the answer (ids of tool calls included, which tell samples of one task apart), and
    used again when a prompt continues that conversation.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._turns: OrderedDict[Turn, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._chat.end_ids

    def reader(self, stops: Sequence[str]) -> Reader:
        """A reader for one answer, which ends at the first of `stops`."""
        return self._chat.reader(stops)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Ids of a prompt, up to where the answer begins."""
        rendered = self._chat.pieces(messages, tools, generate=True)
        for index in range(len(messages), 0, -1):
            if messages[index - 1].role == "assistant":
                known = self._recall((tuple(tools), tuple(messages[:index])))
                if known:
                    answered = self._chat.pieces(messages[:index], tools, generate=False)
                    return self._continue(known, rendered, answered=answered)
        return self._chat.encode(rendered)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool], *, generate: bool) -> list[int]:
        """Ids of a conversation as anyone would tokenise it, with the start of the next answer if `generate`."""
        return self._chat.encode(self._chat.pieces(messages, tools, generate=generate))

    def remember(self, messages: Sequence[Message], tools: Sequence[Tool], *, ids: Sequence[int]) -> None:
        """Keeps the ids of a conversation that ends with an answer sampled here."""
        with self._lock:
            self._turns[tuple(tools), tuple(messages)] = array("i", ids)
            if len(self._turns) > TURNS_KEPT:
                self._turns.popitem(last=False)

    def tokenize(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokenized:
        """Ids of a whole conversation, each answer tokenised as it would be sampled: after its prompt."""
        ids: list[int] = []
        mask: list[bool] = []
        done: list[Piece] = []

        def take(pieces: list[Piece], *, produced: bool) -> None:
            new = self._chat.encode(pieces)
            ids.extend(new)
            mask.extend([produced] * len(new))

        for index, message in enumerate(messages):
            if message.role != "assistant" or index == 0:
                continue
            asked = self._chat.pieces(messages[:index], tools, generate=True)
            take(remainder(asked, done), produced=False)
            answered = self._chat.pieces(messages[: index + 1], tools, generate=False)
            answer = self._to_end(remainder(answered, asked))
            take(answer, produced=True)
            done = answered[: len(answered) - len(remainder(answered, asked)) + len(answer)]
        take(remainder(self._chat.pieces(messages, tools, generate=False), done), produced=False)
        return Tokenized(token_ids=ids, assistant_mask=mask)

    def _recall(self, turn: Turn) -> list[int]:
        with self._lock:
            return list(self._turns.get(turn, ()))

    def _continue(self, known: list[int], rendered: list[Piece], *, answered: list[Piece]) -> list[int]:
        """The ids known of the conversation so far, and those of what the prompt adds to it."""
        answered = self._to_end(answered)
        if known[-1] not in self.end_ids and isinstance(answered[-1], Control):
            answered = answered[:-1]  # the answer was cut off: the template ends the turn, not the model
        try:
            return known + self._chat.encode(remainder(rendered, answered))
        except ConfigError:  # the template rewrites earlier turns
            return self._chat.encode(rendered)

    def _to_end(self, pieces: list[Piece]) -> list[Piece]:
        """Pieces up to and including the last token that ends an answer; all of them if there is none."""
        for index in range(len(pieces) - 1, -1, -1):
            piece = pieces[index]
            if isinstance(piece, Control) and piece.token in self._chat.end_names:
                return pieces[: index + 1]
        return pieces
