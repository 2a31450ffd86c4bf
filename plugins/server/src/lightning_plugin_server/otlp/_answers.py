"""Answers of OTLP/HTTP, in the encoding of the request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from agentlightning.capture.otlp import JSON, PROTOBUF, Rejection
from agentlightning.store.wire import Fault
from lightning_plugin_server._refusal import Refusal

_LONGEST_MESSAGE: Final = 2000
_MOST_REASONS: Final = 5
_CODES: Final = {403: 7, 408: 4, 413: 8, 429: 8, 500: 13, 503: 14}
_INVALID_ARGUMENT: Final = 3


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent.

    Attributes:
        items: What it consists of, for messages.
        rejected: Name of the field that counts rejected ones.
    """

    items: str
    rejected: str


TRACES: Final = Signal(items="spans", rejected="rejectedSpans")
LOGS: Final = Signal(items="log records", rejected="rejectedLogRecords")


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    """`google.rpc.Status`, with what this server says everywhere else, too."""

    code: int
    message: str
    error: Fault


def accepted(rejected: Sequence[Rejection], *, signal: Signal, content_type: str) -> bytes:
    """Body of an answer with status 200: what was not taken, and why."""
    if not rejected:
        return b"" if content_type == PROTOBUF else b"{}"
    message = _summary(rejected)
    if content_type == JSON:
        partial = {signal.rejected: str(len(rejected)), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial})
    # the responses of both signals have the same numbers: partial_success = 1 {rejected = 1, error_message = 2}
    text = message.encode()
    return _field(1, b"\x08" + _varint(len(rejected)) + _field(2, text))


def refused(refusal: Refusal, *, content_type: str) -> bytes:
    """Body of an answer from status 400 on."""
    code, message = _CODES.get(refusal.status, _INVALID_ARGUMENT), str(refusal)
    if content_type == PROTOBUF:
        return b"\x08" + _varint(code) + _field(2, message.encode("utf-8", "replace"))
    fault = Fault(type=refusal.kind, message=message)
    return msgspec.json.encode(_Status(code=code, message=message, error=fault))


def _summary(rejected: Sequence[Rejection]) -> str:
    """The most frequent reasons, with counts."""
    counts = Counter(rejection.reason for rejection in rejected).most_common(_MOST_REASONS + 1)
    reasons = [
        f"{reason} ({count} times)" if count > 1 else reason for reason, count in counts[:_MOST_REASONS]
    ]
    if len(counts) > _MOST_REASONS:
        reasons.append("and more")
    return "; ".join(reasons)[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field with a length."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
