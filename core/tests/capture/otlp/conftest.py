"""What the tests of OTLP share: requests in both encodings from one description."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from agentlightning.capture.otlp import JSON, PROTOBUF, Decoded, Reading, decode_logs, decode_traces

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
IDS = {"agl.rollout.id": "r1", "agl.attempt.id": "r1.1"}
_NUMBERS = {"start_time_unix_nano", "end_time_unix_nano", "time_unix_nano", "observed_time_unix_nano"}
Decode = Callable[..., Decoded]


def as_json(value: Any) -> Any:
    """A value as OTLP/JSON writes it."""
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
            return {
                "doubleValue": value
                if value - value == 0
                else {1: "Infinity", -1: "-Infinity"}.get((value > 0) - (value < 0), "NaN")
            }
        case bytes():
            import base64

            return {"bytesValue": base64.b64encode(value).decode()}
        case list():
            return {"arrayValue": {"values": [as_json(item) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": pairs(value)}}
    raise TypeError(value)


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": as_json(value)} for key, value in values.items()]


def fill(target: AnyValue, value: Any) -> None:
    """A value as protobuf writes it."""
    match value:
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case bytes():
            target.bytes_value = value
        case list():
            target.array_value.SetInParent()
            for item in value:
                fill(target.array_value.values.add(), item)
        case dict():
            target.kvlist_value.SetInParent()
            put(target.kvlist_value.values, value)


def put(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        added = target.add()
        added.key = key
        fill(added.value, value)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _json_item(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in item.items():
        match name:
            case "attributes":
                found[name] = pairs(value)
            case "body":
                found[name] = as_json(value)
            case "events":
                found[name] = [_json_item(event) for event in value]
            case _:
                found[camel(name)] = str(value) if name in _NUMBERS else value
    return found


def _fill_item(target: Any, item: dict[str, Any]) -> None:
    for name, value in item.items():
        match name:
            case "attributes":
                put(target.attributes, value)
            case "body":
                fill(target.body, value)
            case "events":
                for event in value:
                    _fill_item(target.events.add(), event)
            case "status":
                target.status.SetInParent()
                for field, part in value.items():
                    setattr(target.status, field, part)
            case "trace_id" | "span_id" | "parent_span_id":
                setattr(target, name, bytes.fromhex(value))
            case _:
                setattr(target, name, value)


def traces(
    *items: dict[str, Any], content_type: str, resource: dict[str, Any] = IDS, scope: str = "somebody"
) -> bytes:
    """An export request of spans."""
    spans = [{"trace_id": TRACE_ID, "span_id": SPAN_ID, "name": "s", **item} for item in items]
    if content_type == JSON:
        scopes = [{"scope": {"name": scope}, "spans": [_json_item(span) for span in spans]}]
        body = {"resourceSpans": [{"resource": {"attributes": pairs(resource)}, "scopeSpans": scopes}]}
        return json.dumps(body).encode()
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    put(resource_spans.resource.attributes, resource)
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = scope
    for span in spans:
        _fill_item(scope_spans.spans.add(), span)
    return request.SerializeToString()


def logs(*items: dict[str, Any], content_type: str, resource: dict[str, Any] = IDS) -> bytes:
    """An export request of log records."""
    if content_type == JSON:
        scopes = [{"logRecords": [_json_item(item) for item in items]}]
        body = {"resourceLogs": [{"resource": {"attributes": pairs(resource)}, "scopeLogs": scopes}]}
        return json.dumps(body).encode()
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    put(resource_logs.resource.attributes, resource)
    scope_logs = resource_logs.scope_logs.add()
    for item in items:
        _fill_item(scope_logs.log_records.add(), item)
    return request.SerializeToString()


@pytest.fixture(params=[JSON, PROTOBUF])
def content_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def read(content_type: str) -> Decode:
    """Reads spans that were sent in an encoding."""

    def decode(*items: dict[str, Any], reading: Reading = Reading(), **rest: Any) -> Decoded:  # noqa: B008
        return decode_traces(traces(*items, content_type=content_type, **rest), content_type, reading=reading)

    return decode


@pytest.fixture
def read_logs(content_type: str) -> Decode:
    """Reads log records that were sent in an encoding."""

    def decode(*items: dict[str, Any], reading: Reading = Reading(), **rest: Any) -> Decoded:  # noqa: B008
        return decode_logs(logs(*items, content_type=content_type, **rest), content_type, reading=reading)

    return decode
