"""What OTLP's bodies look like, for the OpenAPI document: in outline, as OpenTelemetry defines them elsewhere."""

from __future__ import annotations

from typing import Final

from agentlightning.capture.otlp import JSON, PROTOBUF
from agentlightning.types import Json
from lightning_plugin_server.otlp._answers import LOGS, TRACES, Signal

_BYTES: Final[dict[str, Json]] = {"type": "string", "format": "binary"}


def otlp_contents() -> dict[str, tuple[dict[str, Json], dict[str, Json], dict[str, Json]]]:
    """By path, by media type each: the request, the answer, and what is said when nothing is taken."""
    return {
        "/v1/traces": _contents(
            "trace.v1.ExportTraceService", ("resourceSpans", "scopeSpans", "spans"), signal=TRACES
        ),
        "/v1/logs": _contents(
            "logs.v1.ExportLogsService", ("resourceLogs", "scopeLogs", "logRecords"), signal=LOGS
        ),
    }


def _contents(
    service: str, nested: tuple[str, str, str], *, signal: Signal
) -> tuple[dict[str, Json], dict[str, Json], dict[str, Json]]:
    by_resource, by_scope, items = nested
    prefix = f"opentelemetry.proto.collector.{service}"
    anything: Json = {"type": "object"}
    scopes = _object({"scope": anything, items: _array(anything)})
    request = _object({by_resource: _array(_object({"resource": anything, by_scope: _array(scopes)}))})
    count: Json = {
        "type": "string",
        "pattern": "^[0-9]+$",
        "description": f"How many {signal.items} were not taken.",
    }
    partial = _object({signal.rejected: count, "errorMessage": {"type": "string"}})
    status = _object({"code": {"type": "integer"}, "message": {"type": "string"}, "error": anything})
    return (
        _both(f"{prefix}Request", request),
        _both(f"{prefix}Response", _object({"partialSuccess": partial})),
        _both("google.rpc.Status", status),
    )


def _both(message: str, schema: dict[str, Json]) -> dict[str, Json]:
    """A message as protobuf and as JSON."""
    return {
        PROTOBUF: {"schema": {"description": f"`{message}` in protobuf's encoding.", **_BYTES}},
        JSON: {"schema": {"description": f"`{message}` in protobuf's mapping to JSON.", **schema}},
    }


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {"type": "object", "properties": properties}


def _array(items: Json) -> dict[str, Json]:
    return {"type": "array", "items": items}
