"""What a span says of the turn that it is, as `agl.turn`; `agl.turn.common` counts the leading ids in common."""

from __future__ import annotations

from enum import StrEnum


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
