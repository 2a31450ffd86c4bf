"""What the tests share: an instrumented process with a scripted endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import install_tracing
from agentlightning.testing import CaptureStage
from lightning_adapter_openai import OpenAIAdapter


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider()
    install_tracing(provider)
    yield provider
    provider.shutdown()


@pytest.fixture
def stage(provider: TracerProvider) -> Iterator[CaptureStage]:
    with CaptureStage(OpenAIAdapter(), provider=provider) as stage:
        yield stage
