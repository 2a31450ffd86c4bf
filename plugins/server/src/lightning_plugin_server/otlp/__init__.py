"""OTLP/HTTP: spans and log records of any OpenTelemetry exporter."""

from __future__ import annotations

from agentlightning.store import Store
from lightning_plugin_server._endpoint import Endpoint


def otlp_endpoints(store: Store) -> list[Endpoint]:
    """The endpoints of OTLP/HTTP."""
    del store
    return []
