"""What the tests share: an instrumented process, a scripted model and a rollout that points at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import Endpoint, RolloutContext, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply
from agentlightning.types import Mode, Span
from lightning_adapter_anthropic import AnthropicAdapter


class Stage:
    """An instrumented process with a scripted endpoint."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.reply: ScriptedReply = ScriptedAnswer(text="ok")

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    @property
    def span(self) -> Span:
        """The only span."""
        (span,) = self.spans
        return span

    def rollout(self, *, model: str | None = None) -> RolloutContext:
        endpoint = Endpoint(base_url=self.llm.base_url, api_key="attempt-key", model=model)
        return RolloutContext(rollout_id="r", attempt_id="a", mode=Mode.TRAIN, sink=self, endpoint=endpoint)

    llm: ScriptedLLM


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "AUTH_TOKEN", "BASE_URL", "CUSTOM_HEADERS", "PROFILE"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    adapter = AnthropicAdapter()
    provider = TracerProvider()
    install_tracing(provider)
    with ScriptedLLM(lambda _: stage.reply) as stage.llm:
        adapter.instrument(provider)
        yield stage
        adapter.uninstrument()
    provider.shutdown()
