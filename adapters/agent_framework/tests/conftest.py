"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning.testing import CaptureStage
from lightning_adapter_agent_framework import AgentFrameworkAdapter


@pytest.fixture
def exported(stage: CaptureStage) -> InMemorySpanExporter:
    """What the user's own exporter gets."""
    exporter = InMemorySpanExporter()
    stage.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def stage() -> Iterator[CaptureStage]:
    with CaptureStage(AgentFrameworkAdapter()) as stage:
        yield stage
