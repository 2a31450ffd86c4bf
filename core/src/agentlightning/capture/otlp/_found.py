"""What is read from OTLP before it is known whose it is, and what becomes of it."""

from __future__ import annotations

import sys
from typing import Final, TypeAlias

import msgspec

from agentlightning.errors import AglError
from agentlightning.types import Json, RewardSource, Span

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


class MalformedTelemetry(AglError, ValueError):
    """A body that is no OTLP request; nothing of it can be used."""


class Unreadable(Exception):
    """One span or log record that cannot be taken; says why. Never leaves this package."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How OTLP is read. The defaults are for data of one's own, such as an archive.

    Attributes:
        rollout_id: With `attempt_id`, whose the spans are, whatever they say; None believes them.
        trusted: Tokens, source, sequence, lateness and ids of another form are believed; else they are taken off.
        reward_source: Who gives the rewards, whatever they say; None believes them.
        items: Most spans or log records of one request.
        item_bytes: Most bytes of one of them, in protobuf.
        attributes: Most attributes of one span, and most events; more are dropped, and that is noted.
        text: Most characters of one string; longer ones are cut, with a mark.
        depth: Most levels of lists and maps in a value; a span with more is rejected.
        text_depth: Most levels of a value that travels as JSON text; with more it stays text.
    """

    rollout_id: str | None = None
    attempt_id: str | None = None
    trusted: bool = True
    reward_source: RewardSource | None = None
    items: int = sys.maxsize
    item_bytes: int = sys.maxsize
    attributes: int = sys.maxsize
    text: int = sys.maxsize
    depth: int = 128
    text_depth: int = 512


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A span or log record that was not taken.

    Attributes:
        span_id: Its id as it was sent, maybe empty.
        reason: Why, and what to do.
    """

    span_id: str
    reason: str


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """What a request has.

    Attributes:
        spans: In the order of the request. Ids of rollout and attempt are empty where nothing names them.
        rejected: What cannot be taken.
    """

    spans: tuple[Span, ...]
    rejected: tuple[Rejection, ...] = ()


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent spans or log records.

    Attributes:
        resource: Attributes of the resource.
        scope: Name of the instrumentation scope.
        version: Version of the scope.
    """

    resource: dict[str, Json]
    scope: str = ""
    version: str = ""


class FoundSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it was sent, with values as JSON; bytes are base64 text.

    Attributes:
        dropped: Attributes and events that the sender or the limit left out.
    """

    origin: Origin
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    status: int
    message: str
    attributes: dict[str, Json]
    events: list[dict[str, Json]]
    dropped: int = 0


class FoundLog(msgspec.Struct, frozen=True, kw_only=True):
    """A log record as it was sent, with values as JSON; bytes are base64 text."""

    origin: Origin
    trace_id: str
    span_id: str
    event: str
    time_ns: int
    severity: int
    severity_text: str
    body: Json
    attributes: dict[str, Json]
    dropped: int = 0


Found: TypeAlias = FoundSpan | FoundLog
