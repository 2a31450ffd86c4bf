"""Where the tests of one adapter play: an instrumented process, a scripted endpoint, and rollouts that point at it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, Self, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.agents import Adapter
from agentlightning.capture import Endpoint, RolloutContext, SpanSink, in_rollout, install_tracing
from agentlightning.testing._calls import called
from agentlightning.testing._scripted_answer import ScriptedAnswer, ScriptedReply
from agentlightning.testing._scripted_llm import Script, ScriptedLLM
from agentlightning.testing._scripted_wire import ScriptedRequest
from agentlightning.types import Json, Mode, Resource, Span

_SETTINGS: Final = ("ANTHROPIC_", "LANGCHAIN_TRACING", "LANGSMITH_", "OPENAI_")
"""Beginnings of the environment variables that lead SDKs somewhere else."""


class CaptureStage:
    """An instrumented process while its block runs; it takes the spans of its rollouts itself.

    Attributes:
        adapter: What is tried.
        provider: Its tracer provider.
        llm: The endpoint of rollouts.
        spans: What rollouts left, in the order of their ends.
        replies: Answered first, one a request.
        script: Asked next, where there is one.
        reply: Answered always after that.
        endpoint_model: What rollouts ask for in place of the agent's own model; None leaves it.
    """

    llm: ScriptedLLM

    def __init__(
        self, adapter: Adapter, *, provider: TracerProvider | None = None, model: str | None = None
    ) -> None:
        """Prepares a stage.

        Args:
            adapter: What is tried.
            provider: A tracer provider that others have a part in, and which they shut down; else one of its own.
            model: The `endpoint_model`.
        """
        self.adapter = adapter
        self.provider = provider or TracerProvider()
        self.spans: list[Span] = []
        self.replies: list[ScriptedReply] = []
        self.script: Script | None = None
        self.reply: ScriptedReply = ScriptedAnswer(text="ok")
        self.endpoint_model = model
        self._stack = ExitStack()
        self._owns_provider = provider is None

    def __enter__(self) -> Self:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.startswith(_SETTINGS)]:
            patch.delenv(name)
        install_tracing(self.provider)
        if self._owns_provider:
            self._stack.callback(self.provider.shutdown)
        self.llm = self._stack.enter_context(ScriptedLLM(self.answer))
        self.adapter.instrument(self.provider)
        self._stack.callback(self.adapter.uninstrument)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, span: Span) -> None:
        """Takes a span: this is the sink of its rollouts."""
        self.spans.append(span)

    def answer(self, request: ScriptedRequest) -> ScriptedReply:
        """What the endpoint answers."""
        if self.replies:
            return self.replies.pop(0)
        return self.reply if self.script is None else self.script(request)

    def rollout(
        self,
        name: str = "a",
        *,
        sink: SpanSink | None = None,
        resources: Mapping[str, Resource] | None = None,
        model: str | None = None,
    ) -> RolloutContext:
        """A rollout `r-NAME` with the attempt `NAME`, the key `key-NAME`, and the stage's model or another."""
        endpoint = Endpoint(
            base_url=self.llm.base_url, api_key=f"key-{name}", model=model or self.endpoint_model
        )
        return RolloutContext(
            rollout_id=f"r-{name}",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=sink or self,
            endpoint=endpoint,
            resources=resources or {},
        )

    async def play(self, agent: object, context: RolloutContext, task: Json = "hi") -> Json:
        """Runs an agent in a rollout, as the runner does."""
        with in_rollout(context), self.adapter.bind(agent, context) as bound:
            return await called(self.adapter.as_function(bound), task)

    @property
    def asked(self) -> list[list[dict[str, Json]]]:
        """The messages of each request."""
        return [cast("list[dict[str, Json]]", request.json["messages"]) for request in self.llm.requests]

    @property
    def span(self) -> Span:
        """The only span."""
        (span,) = self.spans
        return span

    def of(self, operation: str) -> list[Span]:
        """The spans of an operation, in the order of their starts."""
        found = [span for span in self.spans if span.operation == operation]
        return sorted(found, key=lambda span: span.start_ns)

    def one(self, operation: str) -> Span:
        """The only span of an operation."""
        (span,) = self.of(operation)
        return span

    def named(self, name: str) -> Span:
        """The only span of a name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def above(self, span: Span) -> Span:
        """The span right above one."""
        (found,) = [one for one in self.spans if one.span_id == span.parent_id]
        return found

    def path(self, span: Span) -> list[str]:
        """Names of the spans above one, the nearest first."""
        by_id = {one.span_id: one for one in self.spans}
        names = []
        while (parent := by_id.get(span.parent_id or "")) is not None:
            names.append(parent.name)
            span = parent
        return names

    def tree(self) -> list[str]:
        """Names of all spans in the order of their starts, indented below what they are in."""
        spans = sorted(self.spans, key=lambda span: span.start_ns)
        return ["  " * len(self.path(span)) + span.name for span in spans]
