"""What the tests share: an instrumented process, a scripted model and a rollout that points at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import openai
import pytest
from langchain_openai import ChatOpenAI
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import Endpoint, RolloutContext, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply
from agentlightning.types import Mode, Resource, Span
from lightning_adapter_langchain import LangChainAdapter


class Stage:
    """An instrumented process with a scripted endpoint."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.reply: ScriptedReply = ScriptedAnswer(text="ok")
        self.replies: list[ScriptedReply] = []
        self.adapter = LangChainAdapter()

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    def rollout(
        self, name: str = "a", *, model: str | None = None, resources: Mapping[str, Resource] | None = None
    ) -> RolloutContext:
        endpoint = Endpoint(base_url=self.llm.base_url, api_key=f"key-{name}", model=model)
        return RolloutContext(
            rollout_id="r",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=self,
            endpoint=endpoint,
            resources=resources or {},
        )

    def model(self, **options: object) -> ChatOpenAI:
        """A chat model; loading certificates is most of what making one costs."""
        return ChatOpenAI(
            model="own-model",
            base_url="http://127.0.0.1:9/v1",
            api_key="own-key",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=False),
            http_async_client=openai.DefaultAsyncHttpxClient(verify=False),
            **options,
        )

    def one(self, operation: str) -> Span:
        """The only span of an operation."""
        (span,) = [span for span in self.spans if span.operation == operation]
        return span

    def tree(self) -> list[str]:
        """Names of all spans in the order in which they started, indented below their parents."""
        by_id = {span.span_id: span for span in self.spans}

        def depth(span: Span) -> int:
            parent = by_id.get(span.parent_id or "")
            return 0 if parent is None else 1 + depth(parent)

        return ["  " * depth(span) + span.name for span in sorted(self.spans, key=lambda span: span.start_ns)]

    def above(self, span: Span) -> list[str]:
        """Names of the spans around one, inside out."""
        by_id = {one.span_id: one for one in self.spans}
        names = []
        parent = by_id.get(span.parent_id or "")
        while parent is not None:
            names.append(parent.name)
            parent = by_id.get(parent.parent_id or "")
        return names

    llm: ScriptedLLM


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider()
    install_tracing(provider)
    yield provider
    provider.shutdown()


@pytest.fixture
def stage(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.delenv(name, raising=False)
    stage = Stage()
    with ScriptedLLM(lambda _: stage.replies.pop(0) if stage.replies else stage.reply) as stage.llm:
        stage.adapter.instrument(provider)
        yield stage
        stage.adapter.uninstrument()
