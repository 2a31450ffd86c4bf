"""Entry points of reading: a body becomes spans, and reasons for what cannot be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from agentlightning.capture.otlp._found import (
    JSON,
    PROTOBUF,
    Decoded,
    FoundLog,
    FoundSpan,
    MalformedTelemetry,
    Reading,
    Rejection,
    Unreadable,
)
from agentlightning.capture.otlp._logs import span_of
from agentlightning.capture.otlp._spans import spans_of
from agentlightning.errors import LimitExceeded
from agentlightning.types import Span

Item = TypeVar("Item", FoundSpan, FoundLog)

_ARCHIVE = Reading()


def decode_traces(body: bytes, content_type: str, *, reading: Reading = _ARCHIVE) -> Decoded:
    """The spans of an `ExportTraceServiceRequest`.

    Args:
        body: The request, not compressed.
        content_type: `PROTOBUF` or `JSON`.
        reading: How it is read; the default believes everything, as for an archive of one's own.

    Raises:
        MalformedTelemetry: It is no such request. What is wrong with single spans only rejects them.
        LimitExceeded: It has more items than the reading takes.
    """
    if content_type == JSON:
        from agentlightning.capture.otlp._json import read_traces
    else:
        _check(content_type)
        from agentlightning.capture.otlp._protobuf import read_traces
    return _decoded(read_traces(body, reading), lambda found: spans_of(found, reading), reading)


def decode_logs(body: bytes, content_type: str, *, reading: Reading = _ARCHIVE) -> Decoded:
    """The spans that the log records of an `ExportLogsServiceRequest` become. Arguments and errors as above."""
    if content_type == JSON:
        from agentlightning.capture.otlp._json import read_logs
    else:
        _check(content_type)
        from agentlightning.capture.otlp._protobuf import read_logs
    return _decoded(read_logs(body, reading), lambda found: (span_of(found, reading),), reading)


def _decoded(
    items: Iterable[Item | Rejection], convert: Callable[[Item], Iterable[Span]], reading: Reading
) -> Decoded:
    spans: list[Span] = []
    rejected: list[Rejection] = []
    for count, found in enumerate(items):
        if count >= reading.items:
            raise LimitExceeded(
                f"a request may have {reading.items} items, and this one has more; send less at once"
            )
        if isinstance(found, Rejection):
            rejected.append(found)
            continue
        try:
            spans += convert(found)
        except Unreadable as error:
            rejected.append(Rejection(span_id=found.span_id, reason=str(error)))
    return Decoded(spans=tuple(spans), rejected=tuple(rejected))


def _check(content_type: str) -> None:
    if content_type != PROTOBUF:
        raise MalformedTelemetry(f"OTLP comes as {PROTOBUF!r} or {JSON!r}, not as {content_type!r}")
