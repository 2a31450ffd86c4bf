"""OTLP as protobuf, from the messages of OTLP as JSON."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentlightning.capture.otlp import _json_types as wire


class _Attributes(Protocol):
    """Repeated attributes of a message."""

    def add(self) -> KeyValue:
        """Adds an empty one."""
        ...


def write_traces(request: wire.Traces[wire.Span]) -> bytes:
    """An `ExportTraceServiceRequest`."""
    message = ExportTraceServiceRequest()
    for resource in request.resource_spans or ():
        resource_spans = message.resource_spans.add()
        if resource.resource:
            _pairs(resource_spans.resource.attributes, resource.resource.attributes)
        for scope in resource.scope_spans or ():
            scope_spans = resource_spans.scope_spans.add()
            if scope.scope:
                scope_spans.scope.name = scope.scope.name or ""
            for span in scope.spans or ():
                _span(scope_spans.spans.add(), span)
    data: bytes = message.SerializeToString()
    return data


def _span(target: Span, span: wire.Span) -> None:
    target.trace_id = bytes.fromhex(span.trace_id or "")
    target.span_id = bytes.fromhex(span.span_id or "")
    target.parent_span_id = bytes.fromhex(span.parent_span_id or "")
    target.name = span.name or ""
    target.kind = int(span.kind or 0)  # type: ignore[assignment]
    target.start_time_unix_nano = int(span.start_time_unix_nano or 0)
    target.end_time_unix_nano = int(span.end_time_unix_nano or 0)
    _pairs(target.attributes, span.attributes)
    if span.status:
        target.status.code = int(span.status.code or 0)  # type: ignore[assignment]
        target.status.message = span.status.message or ""


def _pairs(target: _Attributes, pairs: Sequence[wire.KeyValue] | None) -> None:
    for pair in pairs or ():
        added = target.add()
        added.key = pair.key
        _value(added.value, pair.value or wire.AnyValue())


def _value(target: AnyValue, value: wire.AnyValue) -> None:
    if value.string_value is not None:
        target.string_value = value.string_value
    elif value.bytes_value is not None:
        target.bytes_value = b64decode(value.bytes_value)
    elif value.int_value is not None:
        target.int_value = int(value.int_value)
    elif value.bool_value is not None:
        target.bool_value = value.bool_value
    elif value.double_value is not None:
        target.double_value = float(value.double_value)
    elif value.array_value is not None:
        target.array_value.SetInParent()
        for item in value.array_value.values or ():
            _value(target.array_value.values.add(), item)
    elif value.kvlist_value is not None:
        target.kvlist_value.SetInParent()
        _pairs(target.kvlist_value.values, value.kvlist_value.values)
