"""Compositions as text, for the command line and TOML: `together(lightningrl(agents=writer), decisions)`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Json

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[^\s()\[\],="]+)|(?P<mark>[()\[\],=]))'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A name with what stands in its brackets.

    Attributes:
        parts: What is there without a key.
        settings: What is there with a key: a number, a truth value, a name, or a list of them.
    """

    name: str
    parts: tuple[Written, ...] = ()
    settings: dict[str, Json]


def read(text: str) -> Written:
    """Reads one expression.

    Names are written as they are, or quoted as in JSON where they contain any of `()[],="` or a space.

    Raises:
        ConfigError: It is none; the message says where it goes wrong.
    """
    reader = _Reader(text)
    found = reader.expression()
    if reader.next is not None:
        raise reader.error("the end")
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._all()
        self.next: str | None = next(self._tokens)

    def _all(self) -> Iterator[str | None]:
        place, text = 0, self._text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ConfigError(f"{self._text!r}: a quote is not closed at {text[place:]!r}")
            place = match.end()
            yield match["quoted"] or match["word"] or match["mark"]
        while True:
            yield None

    def error(self, wanted: str) -> ConfigError:
        found = "it ends" if self.next is None else f"there is {self.next!r}"
        return ConfigError(
            f"{self._text!r}: {wanted} should come where {found}; write it like together(lightningrl, decisions)"
        )

    def _take(self) -> str:
        taken, self.next = self.next, next(self._tokens)
        return str(taken)

    def _accept(self, mark: str) -> bool:
        if self.next != mark:
            return False
        self._take()
        return True

    def _name(self, wanted: str) -> str:
        if self.next is None or self.next in "()[],=":
            raise self.error(wanted)
        token = self._take()
        return _unquoted(token) if token.startswith('"') else token

    def expression(self) -> Written:
        name = self._name("a name")
        return self._bracket(name) if self._accept("(") else Written(name=name, settings={})

    def _bracket(self, name: str) -> Written:
        parts: list[Written] = []
        settings: dict[str, Json] = {}
        while not self._accept(")"):
            if parts or settings:
                if not self._accept(","):
                    raise self.error("',' or ')'")
                if self._accept(")"):
                    break
            inner = self._name("a name")
            if self._accept("="):
                if inner in settings:
                    raise ConfigError(f"{self._text!r}: {inner!r} is given twice; leave one out")
                settings[inner] = self._value()
            else:
                parts.append(self._bracket(inner) if self._accept("(") else Written(name=inner, settings={}))
        return Written(name=name, parts=tuple(parts), settings=settings)

    def _value(self) -> Json:
        if self._accept("["):
            values: list[Json] = []
            while not self._accept("]"):
                if values and not self._accept(","):
                    raise self.error("',' or ']'")
                values.append(self._value())
            return values
        if self.next is not None and self.next.startswith('"'):
            return _unquoted(self._take())
        word = self._name("a value")
        try:
            return msgspec.json.decode(word)
        except msgspec.DecodeError:
            return word


def _unquoted(token: str) -> str:
    try:
        return msgspec.json.decode(token, type=str)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{token} is no text as in JSON: {error}") from error
