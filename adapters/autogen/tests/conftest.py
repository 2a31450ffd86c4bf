"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

import openai
import pytest
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.capture import Endpoint, RolloutContext, in_rollout, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply, ScriptedRequest
from agentlightning.types import Json, Mode, Resource, Span
from lightning_adapter_autogen import AutoGenAdapter


class Stage:
    """An instrumented process with a scripted endpoint."""

    llm: ScriptedLLM
    adapter: AutoGenAdapter

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.spans: list[Span] = []
        self.replies: list[ScriptedReply] = []

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    def answer(self, request: ScriptedRequest) -> ScriptedReply:
        return self.replies.pop(0) if self.replies else ScriptedAnswer(text="ok")

    def of(self, operation: str) -> list[Span]:
        return sorted(
            (span for span in self.spans if span.operation == operation), key=lambda one: one.start_ns
        )

    def above(self, span: Span) -> Span:
        (found,) = [one for one in self.spans if one.span_id == span.parent_id]
        return found

    def asked(self) -> list[list[dict[str, Json]]]:
        """The messages of each request."""
        return [request.json["messages"] for request in self.llm.requests]

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


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    provider = TracerProvider()
    install_tracing(provider)
    stage = Stage(provider)
    stage.adapter = AutoGenAdapter()
    with ScriptedLLM(stage.answer) as stage.llm:
        stage.adapter.instrument(provider)
        yield stage
        stage.adapter.uninstrument()
    provider.shutdown()


INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True
)


@pytest.fixture
async def model_client() -> AsyncIterator[OpenAIChatCompletionClient]:
    """A client of the user's own, which leads nowhere."""
    client = OpenAIChatCompletionClient(
        model="users-own-model",
        base_url="http://127.0.0.1:9/v1",
        api_key="users-own-key",
        model_info=INFO,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    )
    yield client
    await client.close()
