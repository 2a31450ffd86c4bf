"""What the tests share: an instrumented process with a scripted endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentlightning.testing import CaptureStage
from lightning_adapter_anthropic import AnthropicAdapter


@pytest.fixture
def stage() -> Iterator[CaptureStage]:
    with CaptureStage(AnthropicAdapter()) as stage:
        yield stage
