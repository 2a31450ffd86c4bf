"""Spans and log records as OpenTelemetry's JSON, in environments that have its SDK and none of our packages."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class SpanFile(SpanExporter):
    """Keeps spans; `write` makes one request of them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        """Keeps them."""
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def write(self, path: Path) -> None:
        """Writes an `ExportTraceServiceRequest`, spans in the order in which they ended."""
        scopes: dict[str, list[dict[str, Any]]] = {}
        for span in self.spans:
            scopes.setdefault(span.instrumentation_scope.name, []).append(_span(span))
        request = {
            "resourceSpans": [{"scopeSpans": [{"scope": {"name": n}, "spans": s} for n, s in scopes.items()]}]
        }
        path.write_text(json.dumps(request))


def write_logs(records: list[Any], path: Path) -> None:
    """Writes an `ExportLogsServiceRequest` of log records, such as an in-memory exporter keeps."""
    scopes: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        scopes.setdefault(record.instrumentation_scope.name, []).append(_log(record.log_record))
    request = {
        "resourceLogs": [{"scopeLogs": [{"scope": {"name": n}, "logRecords": s} for n, s in scopes.items()]}]
    }
    path.write_text(json.dumps(request))


def _span(span: ReadableSpan) -> dict[str, Any]:
    own, parent = span.get_span_context(), span.parent
    status = {"code": span.status.status_code.value, "message": span.status.description}
    return {
        "traceId": f"{own.trace_id:032x}",
        "spanId": f"{own.span_id:016x}",
        **({"parentSpanId": f"{parent.span_id:016x}"} if parent else {}),
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _pairs(span.attributes),
        "events": [
            {"name": each.name, "timeUnixNano": str(each.timestamp), "attributes": _pairs(each.attributes)}
            for each in span.events
        ],
        "status": {key: value for key, value in status.items() if value},
    }


def _log(record: Any) -> dict[str, Any]:
    return {
        "timeUnixNano": str(record.timestamp or record.observed_timestamp),
        "eventName": record.event_name or "",
        "traceId": f"{record.trace_id or 0:032x}",
        "spanId": f"{record.span_id or 0:016x}",
        "body": _value(record.body),
        "attributes": _pairs(record.attributes),
    }


def _pairs(attributes: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case str():
            return {"stringValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case bytes():
            return {"bytesValue": base64.b64encode(value).decode()}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
        case _:
            return {"arrayValue": {"values": [_value(item) for item in value]}}
