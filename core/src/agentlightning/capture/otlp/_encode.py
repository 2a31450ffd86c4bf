"""From spans to OTLP: exactly, so that reading it again gives the same spans."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.capture._convert import JSON_ATTRIBUTES, SCOPE
from agentlightning.capture.otlp import _json_types as wire
from agentlightning.capture.otlp import names
from agentlightning.capture.otlp._found import JSON, PROTOBUF, Reading
from agentlightning.capture.otlp._spans import default_agent, default_error
from agentlightning.capture.otlp._values import from_text, to_text
from agentlightning.capture.otlp._whose import digest_id
from agentlightning.types import Json, Span, SpanStatus, TokenRecord

_DEEPEST: Final = 32
"""Levels that every reader of protobuf takes; deeper values travel as JSON text."""
_READING: Final = Reading()
_INT64: Final = range(-(2**63), 2**63)
_STATUS: Final = {SpanStatus.UNSET: 0, SpanStatus.OK: 1, SpanStatus.ERROR: 2}
_INTERNAL, _CLIENT = 1, 3
_SPECIAL: Final = names.OWN | {semconv.OPERATION, semconv.ROLLOUT_ID, semconv.ATTEMPT_ID}


class _TooRich(Exception):
    """A value that OTLP cannot express."""


def encode_traces(spans: Iterable[Span], *, content_type: str = JSON) -> bytes:
    """An `ExportTraceServiceRequest` of the spans, with one resource for each attempt, in order of appearance.

    Args:
        spans: Best in order of attempt.
        content_type: `PROTOBUF` or `JSON`.
    """
    attempts: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in spans:
        attempts[span.rollout_id, span.attempt_id].append(span)
    request = wire.Traces(
        resource_spans=[
            _resource(rollout_id, attempt_id, found) for (rollout_id, attempt_id), found in attempts.items()
        ]
    )
    if content_type == JSON:
        return msgspec.json.encode(request)
    if content_type != PROTOBUF:
        raise ValueError(f"OTLP is written as {PROTOBUF!r} or {JSON!r}, not as {content_type!r}")
    from agentlightning.capture.otlp._protobuf_writer import write_traces

    return write_traces(request)


def _resource(rollout_id: str, attempt_id: str, spans: list[Span]) -> wire.ResourceSpans[wire.Span]:
    ids = {"service.name": SCOPE, semconv.ROLLOUT_ID: rollout_id, semconv.ATTEMPT_ID: attempt_id}
    return wire.ResourceSpans(
        resource=wire.Resource(attributes=[_pair(key, text) for key, text in ids.items()]),
        scope_spans=[wire.ScopeSpans(scope=wire.Scope(name=SCOPE), spans=[_span(span) for span in spans])],
    )


def _span(span: Span) -> wire.Span:
    own = dict(_own(span))
    attributes, as_text = _attributes(span.attributes)
    if as_text:
        own[names.JSON_KEYS] = as_text
    return wire.Span(
        trace_id=_identifier(span.trace_id, 32),
        span_id=_identifier(span.span_id, 16),
        parent_span_id=None if span.parent_id is None else _identifier(span.parent_id, 16),
        name=span.name,
        kind=_CLIENT if span.operation == semconv.OPERATION_CHAT else _INTERNAL,
        start_time_unix_nano=str(max(span.start_ns, 0)),
        end_time_unix_nano=str(max(span.end_ns, 0)),
        attributes=[
            _pair(semconv.OPERATION, span.operation),
            *(_pair(key, value) for key, value in own.items()),
            *_tokens(span.tokens),
            *attributes,
        ],
        status=wire.Status(code=_STATUS[span.status], message=span.error),
    )


def _own(span: Span) -> Iterator[tuple[str, Json]]:
    """The attributes for what OTLP has no field for, or would read differently."""
    yield names.SOURCE, span.source.value
    if span.sequence:
        yield names.SEQUENCE, span.sequence
    if span.late:
        yield names.LATE, True
    for name, text, digits in (
        (names.SPAN_ID, span.span_id, 16),
        (names.TRACE_ID, span.trace_id, 32),
        (names.PARENT_ID, span.parent_id, 16),
    ):
        if text is not None and not _is_identifier(text, digits):
            yield name, text
    if span.start_ns < 0:
        yield names.START_NS, span.start_ns
    if span.end_ns < 0 or span.end_ns < span.start_ns:
        yield names.END_NS, span.end_ns
    if span.agent != default_agent(span.attributes, {}):
        yield names.AGENT, span.agent
    if span.error != default_error(span.status, span.error or "", span.attributes):
        yield names.ERROR, span.error


def _tokens(records: tuple[TokenRecord, ...]) -> Iterator[wire.KeyValue]:
    if not records:
        return
    for name, column in (
        (names.PROMPT_IDS, [record.prompt for record in records]),
        (names.RESPONSE_IDS, [record.response for record in records]),
        (names.LOGPROBS, [record.logprobs for record in records]),
    ):
        packed = [wire.AnyValue(bytes_value=b64encode(data).decode()) for data in column]
        yield wire.KeyValue(key=name, value=wire.AnyValue(array_value=wire.ArrayValue(values=packed)))
    yield _pair(names.VERSIONS, [record.version for record in records])
    yield _pair(names.INCOMPLETE, [record.incomplete for record in records])
    yield _pair(names.FINISH_REASONS, [record.finish_reason for record in records])


def _attributes(attributes: Mapping[str, Json]) -> tuple[list[wire.KeyValue], list[str]]:
    """The attributes, and the keys of those that are written as JSON text."""
    pairs: list[wire.KeyValue] = []
    as_text: list[str] = []
    for name, value in attributes.items():
        key = f"{names.ESCAPE}{name}" if name in _SPECIAL or name.startswith(names.ESCAPE) else name
        if name in JSON_ATTRIBUTES:
            pairs.append(_pair(key, _json_text(value)))
            continue
        try:
            pairs.append(_pair(key, value))
        except _TooRich:
            pairs.append(_pair(key, to_text(value)))
            as_text.append(key)
    return pairs, as_text


def _json_text(value: Json) -> str:
    """A value that is read as JSON where it can be: text that could be taken for JSON is written as JSON, too."""
    return (
        value
        if isinstance(value, str) and from_text(value, depth=_READING.text_depth) is value
        else to_text(value)
    )


def _pair(key: str, value: Json) -> wire.KeyValue:
    return wire.KeyValue(key=key, value=_value(value, 0))


def _value(value: Json, depth: int) -> wire.AnyValue:
    match value:
        case None:
            return wire.AnyValue()
        case bool():
            return wire.AnyValue(bool_value=value)
        case str():
            return wire.AnyValue(string_value=value)
        case int() if value in _INT64:
            return wire.AnyValue(int_value=str(value))
        case float():
            return wire.AnyValue(double_value=value if math.isfinite(value) else str(value))
    if depth == _DEEPEST:
        raise _TooRich
    match value:
        case list() | tuple():
            items = [_value(item, depth + 1) for item in value]
            return wire.AnyValue(array_value=wire.ArrayValue(values=items))
        case Mapping():
            pairs = [wire.KeyValue(key=key, value=_value(item, depth + 1)) for key, item in value.items()]
            return wire.AnyValue(kvlist_value=wire.KeyValueList(values=pairs))
        case _:
            raise _TooRich


def _is_identifier(text: str, digits: int) -> bool:
    return re.fullmatch(rf"(?!0+$)[0-9a-f]{{{digits}}}", text) is not None


def _identifier(text: str, digits: int) -> str:
    return text if _is_identifier(text, digits) else digest_id(text, digits=digits)
