"""Closed sets of choices for commands."""

from __future__ import annotations

from enum import StrEnum


class Result(StrEnum):
    """How an agent's output is read from what its command has printed, or from its result file."""

    TEXT = "text"
    """Text without the line breaks at its end."""
    JSON = "json"
    """One JSON value."""
    LAST_JSON = "last-json"
    """The JSON value of the last line that is not empty: of programs that print events."""
    EXIT = "exit"
    """1.0 if the exit status was one of the good ones, else 0.0."""


class Keep(StrEnum):
    """Whether an attempt's directory stays when the attempt is over."""

    NEVER = "never"
    FAILED = "failed"
    ALWAYS = "always"
