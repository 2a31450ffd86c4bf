"""Token ids to text, bit by bit: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns ids into text as they come; only a few ids are decoded again each time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._emitted = 0

    def push(self, token: int) -> str:
        """Text that has become complete with the token."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(INCOMPLETE):
            return ""
        new = text[len(self._decode(self._ids[: self._emitted])) :]
        self._ids = self._ids[self._emitted :]
        self._emitted = len(self._ids)
        return new

    def flush(self) -> str:
        """What was held back, with a replacement character for what is no character; starts anew."""
        rest = self._decode(self._ids)[len(self._decode(self._ids[: self._emitted])) :]
        self._ids, self._emitted = [], 0
        return rest

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class StopText:
    """Lets text through up to the first stop string.

    Attributes:
        stopped: One was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that cannot be part of a stop string any more."""
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - max((_overlap(self._held, s) for s in self._stops), default=0))

    def flush(self) -> str:
        """What was held back."""
        return "" if self.stopped else self._release(len(self._held))

    def rest(self) -> str:
        """Text from the stop string on, and empty before one was found."""
        return self._held if self.stopped else ""

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` starts with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
