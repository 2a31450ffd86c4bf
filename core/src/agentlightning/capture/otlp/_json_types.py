"""The messages of OTLP as JSON, as far as they are used."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

Item = TypeVar("Item")
Number = int | str
"""64-bit integers are written as text, and read as either."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A message; null means that a field is not there."""


class AnyValue(_Message, frozen=True, kw_only=True):
    """A value: the one field that is there."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: Number | None = None
    double_value: float | str | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None


class ArrayValue(_Message, frozen=True, kw_only=True):
    """A list."""

    values: list[AnyValue] | None = None


class KeyValue(_Message, frozen=True, kw_only=True):
    """An attribute."""

    key: str = ""
    value: AnyValue | None = None


class KeyValueList(_Message, frozen=True, kw_only=True):
    """A map."""

    values: list[KeyValue] | None = None


class Resource(_Message, frozen=True, kw_only=True):
    """What has sent something."""

    attributes: list[KeyValue] | None = None


class Scope(_Message, frozen=True, kw_only=True):
    """The instrumentation that has made something."""

    name: str | None = None
    version: str | None = None


class Status(_Message, frozen=True, kw_only=True):
    """How a span ended."""

    code: Number | None = None
    message: str | None = None


class Event(_Message, frozen=True, kw_only=True):
    """Something that happened during a span."""

    name: str | None = None
    time_unix_nano: Number | None = None
    attributes: list[KeyValue] | None = None


class Span(_Message, frozen=True, kw_only=True):
    """A span."""

    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: Number | None = None
    start_time_unix_nano: Number | None = None
    end_time_unix_nano: Number | None = None
    attributes: list[KeyValue] | None = None
    dropped_attributes_count: Number | None = None
    events: list[Event] | None = None
    status: Status | None = None


class LogRecord(_Message, frozen=True, kw_only=True):
    """A log record."""

    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None
    time_unix_nano: Number | None = None
    observed_time_unix_nano: Number | None = None
    severity_number: Number | None = None
    severity_text: str | None = None
    body: AnyValue | None = None
    attributes: list[KeyValue] | None = None
    dropped_attributes_count: Number | None = None


class ScopeSpans(_Message, Generic[Item], frozen=True, kw_only=True):
    """Spans of one scope."""

    scope: Scope | None = None
    spans: list[Item] | None = None


class ResourceSpans(_Message, Generic[Item], frozen=True, kw_only=True):
    """Spans of one resource."""

    resource: Resource | None = None
    scope_spans: list[ScopeSpans[Item]] | None = None


class Traces(_Message, Generic[Item], frozen=True, kw_only=True):
    """`ExportTraceServiceRequest`."""

    resource_spans: list[ResourceSpans[Item]] | None = None


class ScopeLogs(_Message, Generic[Item], frozen=True, kw_only=True):
    """Log records of one scope."""

    scope: Scope | None = None
    log_records: list[Item] | None = None


class ResourceLogs(_Message, Generic[Item], frozen=True, kw_only=True):
    """Log records of one resource."""

    resource: Resource | None = None
    scope_logs: list[ScopeLogs[Item]] | None = None


class Logs(_Message, Generic[Item], frozen=True, kw_only=True):
    """`ExportLogsServiceRequest`."""

    resource_logs: list[ResourceLogs[Item]] | None = None
