"""What a span says of the turn that it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

TURN: Final = "agl.turn"
"""Span attribute: how the call's prompt goes on from an earlier call of its attempt, a `TurnLabel`."""

COMMON: Final = "agl.turn.common"
"""Span attribute: leading ids that the prompt has in common with the earlier call's prompt and answer."""


class TurnLabel(StrEnum):
    """How a prompt goes on from the earlier call that its messages continue.

    The last three are the words that a token forest uses for a call that could not be merged.
    """

    FIRST = "first"
    """It continues no answer that is remembered."""

    EXACT = "exact"
    """Plain rendering gave the very ids that were sampled."""

    SPLICED = "spliced"
    """The ids that were sampled were put in place of others that plain rendering gave for the same text."""

    RETOKENISATION = "retokenisation"
    """The text is the same, but it reached the model as other ids than were sampled."""

    TEMPLATE = "template"
    """The text is another: the chat template writes an earlier turn anew, drops its reasoning, or ends it otherwise;
    or a stop string was cut off."""

    REWRITTEN = "rewritten"
    """The client has changed what was answered, or what it was an answer to."""
