"""OTLP as JSON: typed structs, so that parsing is one pass in C. Fields that are unknown are ignored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec.json import Decoder

from agentlightning.capture.otlp._found import (
    FoundLog,
    FoundSpan,
    MalformedTelemetry,
    Origin,
    Reading,
    Rejection,
    Unreadable,
)
from agentlightning.capture.otlp._json_types import (
    AnyValue,
    Event,
    KeyValue,
    LogRecord,
    Logs,
    Number,
    Resource,
    Scope,
    Span,
    Traces,
)
from agentlightning.capture.otlp._values import cut, finite, integer, time_ns, too_deep
from agentlightning.types import Json

Item = TypeVar("Item", Span, LogRecord)
Found = TypeVar("Found", FoundSpan, FoundLog)
Request = TypeVar("Request")

_SALVAGED_BYTES: Final = 4 * 2**20
"""Largest request that is taken apart in search of what is of its type."""
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_STATUS: Final = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_SEVERITY: Final = re.compile(r"SEVERITY_NUMBER_(TRACE|DEBUG|INFO|WARN|ERROR|FATAL)([2-4]?)")
_SEVERITY_START: Final = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}
_TRACES: Final = Decoder(Traces[Span])
_RAW_TRACES: Final = Decoder(Traces[msgspec.Raw])
_SPAN: Final = Decoder(Span)
_LOGS: Final = Decoder(Logs[LogRecord])
_RAW_LOGS: Final = Decoder(Logs[msgspec.Raw])
_LOG: Final = Decoder(LogRecord)
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Batch(NamedTuple, Generic[Item]):
    """What one scope of one resource has sent."""

    resource: Resource | None
    scope: Scope | None
    items: Sequence[Item | msgspec.Raw]


def read_traces(body: bytes, reading: Reading) -> Iterator[FoundSpan | Rejection]:
    """The spans of an `ExportTraceServiceRequest`. Raises `MalformedTelemetry`."""
    request = _parsed(body, _TRACES) or _salvaged(body, _RAW_TRACES)
    for resource in request.resource_spans or ():
        for scope in resource.scope_spans or ():
            batch = _Batch(resource.resource, scope.scope, scope.spans or ())
            yield from _read(batch, _SPAN, _span, reading)


def read_logs(body: bytes, reading: Reading) -> Iterator[FoundLog | Rejection]:
    """The log records of an `ExportLogsServiceRequest`. Raises `MalformedTelemetry`."""
    request = _parsed(body, _LOGS) or _salvaged(body, _RAW_LOGS)
    for resource in request.resource_logs or ():
        for scope in resource.scope_logs or ():
            batch = _Batch(resource.resource, scope.scope, scope.log_records or ())
            yield from _read(batch, _LOG, _log, reading)


def _parsed(body: bytes, decoder: Decoder[Request]) -> Request | None:
    """The request; None where something in a request of moderate size is not of its type."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if len(body) > _SALVAGED_BYTES:
            raise _malformed(error) from error
        return None
    except _BROKEN as error:
        raise _malformed(error) from error


def _salvaged(body: bytes, decoder: Decoder[Request]) -> Request:
    """The request with raw items, so that one that is not of its type costs that item alone."""
    try:
        return decoder.decode(body)
    except _BROKEN as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> MalformedTelemetry:
    why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
    return MalformedTelemetry(f"the body is no OTLP JSON message: {why}")


def _read(
    batch: _Batch[Item],
    decoder: Decoder[Item],
    convert: Callable[[Item, Origin, Reading], Found],
    reading: Reading,
) -> Iterator[Found | Rejection]:
    if not batch.items:
        return
    origin = _origin(batch, reading)
    for raw in batch.items:
        span_id = ""
        try:
            item = _item(raw, decoder) if isinstance(raw, msgspec.Raw) else raw
            span_id = item.span_id or ""
            if isinstance(origin, str):
                raise Unreadable(origin)
            yield convert(item, origin, reading)
        except Unreadable as error:
            yield Rejection(span_id=span_id, reason=str(error))


def _item(raw: msgspec.Raw, decoder: Decoder[Item]) -> Item:
    try:
        return decoder.decode(raw)
    except _BROKEN as error:
        raise Unreadable(f"it is no OTLP JSON: {error}") from error


def _origin(batch: _Batch[Item], reading: Reading) -> Origin | str:
    """Who sent a batch, or why that cannot be read."""
    resource, scope = batch.resource or Resource(), batch.scope or Scope()
    try:
        attributes, _ = _attributes(resource.attributes, reading)
    except Unreadable as error:
        return f"its resource: {error}"
    return Origin(resource=attributes, scope=scope.name or "", version=scope.version or "")


def _span(found: Span, origin: Origin, reading: Reading) -> FoundSpan:
    attributes, dropped = _attributes(found.attributes, reading)
    status, events = found.status, found.events or []
    return FoundSpan(
        origin=origin,
        trace_id=(found.trace_id or "").lower(),
        span_id=(found.span_id or "").lower(),
        parent_id=(found.parent_span_id or "").lower(),
        name=found.name or "",
        start_ns=time_ns(_number(found.start_time_unix_nano), "the start"),
        end_ns=time_ns(_number(found.end_time_unix_nano), "the end"),
        status=_status(status.code) if status else 0,
        message=cut(status.message or "", reading.text) if status else "",
        attributes=attributes,
        events=[_event(event, reading) for event in events[: reading.attributes]],
        dropped=dropped + _number(found.dropped_attributes_count) + max(len(events) - reading.attributes, 0),
    )


def _event(found: Event, reading: Reading) -> dict[str, Json]:
    return {
        "name": found.name or "",
        "time_ns": time_ns(_number(found.time_unix_nano), "the time of an event"),
        "attributes": _attributes(found.attributes, reading)[0],
    }


def _log(found: LogRecord, origin: Origin, reading: Reading) -> FoundLog:
    attributes, dropped = _attributes(found.attributes, reading)
    time = _number(found.time_unix_nano) or _number(found.observed_time_unix_nano)
    return FoundLog(
        origin=origin,
        trace_id=(found.trace_id or "").lower(),
        span_id=(found.span_id or "").lower(),
        event=found.event_name or "",
        time_ns=time_ns(time, "the time"),
        severity=_severity(found.severity_number),
        severity_text=found.severity_text or "",
        body=_value(found.body, reading, 0),
        attributes=attributes,
        dropped=dropped + _number(found.dropped_attributes_count),
    )


def _attributes(pairs: Sequence[KeyValue] | None, reading: Reading) -> tuple[dict[str, Json], int]:
    """Attributes by key, and how many the limit left out."""
    if not pairs:
        return {}, 0
    dropped = max(len(pairs) - reading.attributes, 0)
    taken = pairs[: reading.attributes] if dropped else pairs
    return {pair.key: _value(pair.value, reading, 0) for pair in taken}, dropped


def _value(found: AnyValue | None, reading: Reading, depth: int) -> Json:
    if found is None:
        return None
    if (text := found.string_value if found.string_value is not None else found.bytes_value) is not None:
        return cut(text, reading.text)
    if found.int_value is not None:
        return integer(_number(found.int_value))
    if found.bool_value is not None:
        return found.bool_value
    if found.double_value is not None:
        return finite(_float(found.double_value))
    if found.array_value is None and found.kvlist_value is None:
        return None
    if depth >= reading.depth:
        raise too_deep(reading)
    if found.array_value is not None:
        return [_value(item, reading, depth + 1) for item in found.array_value.values or ()]
    if found.kvlist_value is not None:
        return {pair.key: _value(pair.value, reading, depth + 1) for pair in found.kvlist_value.values or ()}
    return None


def _number(found: Number | None) -> int:
    if isinstance(found, str):
        if not _INTEGER.fullmatch(found):
            raise Unreadable(f"{cut(found, 40)!r} is no integer of 64 bits")
        return int(found)
    return found or 0


def _float(found: float | str) -> float:
    try:
        return float(found)
    except ValueError:
        raise Unreadable(f"{cut(str(found), 40)!r} is no number") from None


def _status(code: Number | None) -> int:
    return _STATUS[code] if isinstance(code, str) and code in _STATUS else _number(code)


def _severity(number: Number | None) -> int:
    if isinstance(number, str) and (found := _SEVERITY.fullmatch(number)):
        return _SEVERITY_START[found[1]] + int(found[2] or 1) - 1
    return 0 if number == "SEVERITY_NUMBER_UNSPECIFIED" else _number(number)
