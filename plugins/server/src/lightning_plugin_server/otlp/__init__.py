"""OTLP/HTTP: spans and log records of any OpenTelemetry exporter, as protobuf or JSON."""

from __future__ import annotations

import asyncio
from typing import Final

from agentlightning.capture.otlp import decode_logs, decode_traces
from agentlightning.credentials import Scope
from agentlightning.store import Store
from lightning_plugin_server._endpoint import Endpoint
from lightning_plugin_server.otlp._answers import LOGS, TRACES
from lightning_plugin_server.otlp._receiver import Receiver
from lightning_plugin_server.otlp._schemas import otlp_contents

__all__ = ["SCOPES", "otlp_contents", "otlp_endpoints"]

SCOPES: Final = frozenset({Scope.AGENT, Scope.REWARD, Scope.RUNNER, Scope.TRAINER})
"""Who may send: agents for their own attempt, graders rewards, runners and trainers anything."""


def otlp_endpoints(store: Store) -> list[Endpoint]:
    """The endpoints of OTLP/HTTP."""
    threads = asyncio.Semaphore(2)
    traces = Receiver(store, decode=decode_traces, signal=TRACES, threads=threads)
    logs = Receiver(store, decode=decode_logs, signal=LOGS, threads=threads)
    return [
        Endpoint(
            method="POST",
            path="/v1/traces",
            handle=traces.handle,
            scopes=SCOPES,
            summary="Takes spans of an OpenTelemetry exporter (OTLP/HTTP).",
        ),
        Endpoint(
            method="POST",
            path="/v1/logs",
            handle=logs.handle,
            scopes=SCOPES,
            summary="Takes log records of an OpenTelemetry exporter (OTLP/HTTP).",
        ),
    ]
