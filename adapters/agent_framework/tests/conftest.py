"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning.capture import Endpoint, RolloutContext, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply
from agentlightning.testing._scripted_wire import ScriptedRequest
from agentlightning.types import Mode, Resource, Span
from lightning_adapter_agent_framework import AgentFrameworkAdapter


class Stage:
    """An instrumented process with a scripted endpoint."""

    llm: ScriptedLLM
    adapter: AgentFrameworkAdapter

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.spans: list[Span] = []
        self.replies: list[ScriptedReply] = []
        self.script: Callable[[ScriptedRequest], ScriptedReply] = lambda _: ScriptedAnswer(text="ok")

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    def answer(self, request: ScriptedRequest) -> ScriptedReply:
        return self.replies.pop(0) if self.replies else self.script(request)

    def of(self, operation: str) -> list[Span]:
        return [span for span in self.spans if span.operation == operation]

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def rollout(
        self, name: str = "a", *, sink: object = None, resources: Mapping[str, Resource] | None = None
    ) -> RolloutContext:
        return RolloutContext(
            rollout_id=f"r-{name}",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=sink or self,  # type: ignore[arg-type]
            endpoint=Endpoint(base_url=self.llm.base_url, api_key=f"key-{name}"),
            resources=resources or {},
        )


@pytest.fixture
def exported(stage: Stage) -> InMemorySpanExporter:
    """What the user's own exporter gets."""
    exporter = InMemorySpanExporter()
    stage.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    provider = TracerProvider()
    install_tracing(provider)
    stage = Stage(provider)
    stage.adapter = AgentFrameworkAdapter()
    with ScriptedLLM(stage.answer) as stage.llm:
        stage.adapter.instrument(provider)
        yield stage
        stage.adapter.uninstrument()
    provider.shutdown()
