"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import openai
import pytest
from agents import Model, OpenAIResponsesModel, set_trace_processors
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import Endpoint, RolloutContext, in_rollout, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply, ScriptedRequest
from agentlightning.types import Json, Mode, Resource, Span
from lightning_adapter_openai_agents import OpenAIAgentsAdapter


class Stage:
    """An instrumented process with a scripted endpoint."""

    llm: ScriptedLLM
    adapter: OpenAIAgentsAdapter

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.spans: list[Span] = []
        self.replies: list[ScriptedReply] = []
        self.script: Callable[[ScriptedRequest], ScriptedReply] | None = None

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    def answer(self, request: ScriptedRequest) -> ScriptedReply:
        if self.script is not None:
            return self.script(request)
        return self.replies.pop(0) if self.replies else ScriptedAnswer(text="ok")

    def of(self, operation: str) -> list[Span]:
        return sorted(
            (span for span in self.spans if span.operation == operation), key=lambda one: one.start_ns
        )

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def above(self, span: Span) -> Span:
        (found,) = [one for one in self.spans if one.span_id == span.parent_id]
        return found

    def rollout(
        self,
        name: str = "a",
        *,
        resources: Mapping[str, Resource] | None = None,
        model: str | None = "trained",
    ) -> RolloutContext:
        return RolloutContext(
            rollout_id=f"r-{name}",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=self,
            endpoint=Endpoint(base_url=self.llm.base_url, api_key=f"key-{name}", model=model),
            resources=resources or {},
        )

    async def play(self, agent: object, context: RolloutContext, task: Json = "hi") -> Json:
        """Runs an agent in a rollout, as the runner does."""
        with in_rollout(context), self.adapter.bind(agent, context) as bound:
            return await self.adapter.as_function(bound)(task)  # type: ignore[misc]


@pytest.fixture(scope="session", autouse=True)
def nothing_for_the_vendor() -> None:
    """Without an adapter traces would go to the vendor at the end of the process."""
    set_trace_processors([])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    provider = TracerProvider()
    install_tracing(provider)
    stage = Stage(provider)
    stage.adapter = OpenAIAgentsAdapter()
    with ScriptedLLM(stage.answer) as stage.llm:
        stage.adapter.instrument(provider)
        yield stage
        stage.adapter.uninstrument()
    provider.shutdown()


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    """A model of the user's own, which leads nowhere."""
    transport = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(
        base_url="http://127.0.0.1:9/v1", api_key="users-own-key", max_retries=0, http_client=transport
    ) as client:
        yield OpenAIResponsesModel(model="users-own-model", openai_client=client)
