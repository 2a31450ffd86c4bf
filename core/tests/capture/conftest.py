"""What the tests of capture share: a rollout whose spans are kept in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import RolloutContext, install_tracing
from agentlightning.types import Mode, Span


class ListSink:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)

    def one(self, operation: str) -> Span:
        """The only span of an operation."""
        (found,) = [span for span in self.spans if span.operation == operation]
        return found


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture
def make_rollout(sink: ListSink) -> Callable[..., RolloutContext]:
    def make(attempt_id: str = "r1-1", **fields: object) -> RolloutContext:
        settings: dict[str, object] = {"rollout_id": "r1", "mode": Mode.TRAIN, "sink": sink, **fields}
        return RolloutContext(attempt_id=attempt_id, **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """A provider of the test's own, with capture installed."""
    provider = TracerProvider()
    yield install_tracing(provider)
    provider.shutdown()
