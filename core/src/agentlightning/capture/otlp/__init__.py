"""OTLP in and out: spans and log records of any OpenTelemetry exporter become spans, and spans become OTLP again.

Pure conversion: no sockets, no store. What OpenTelemetry has no word for travels in the `agl.*` attributes that
`agentlightning.capture.otlp.names` documents, so that `decode_traces(encode_traces(spans)).spans == spans`.
"""

from agentlightning.capture.otlp._decode import decode_logs, decode_traces
from agentlightning.capture.otlp._encode import encode_traces
from agentlightning.capture.otlp._found import JSON, PROTOBUF, Decoded, MalformedTelemetry, Reading, Rejection

__all__ = [
    "JSON",
    "PROTOBUF",
    "Decoded",
    "MalformedTelemetry",
    "Reading",
    "Rejection",
    "decode_logs",
    "decode_traces",
    "encode_traces",
]
