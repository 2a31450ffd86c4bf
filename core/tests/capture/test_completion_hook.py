"""Content reaches spans of official instrumentations through OpenTelemetry's own hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util.genai.completion_hook import load_completion_hook
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.types import FunctionToolDefinition, InputMessage, OutputMessage, TextPart

from agentlightning.capture import RolloutContext, in_rollout
from agentlightning.capture.completion_hook import CompletionHook

Make = Callable[..., RolloutContext]
SAID = "gen_ai.input.messages"


@pytest.fixture
def handler(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> TelemetryHandler:
    """What every official GenAI instrumentation reports to; it keeps content out of its spans."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK", "agl")
    return TelemetryHandler(tracer_provider=provider, completion_hook=load_completion_hook())


def call(handler: TelemetryHandler) -> None:
    with handler.inference(provider="openai", request_model="m") as inference:
        inference.input_messages = [InputMessage(role="user", parts=[TextPart(content="two and two?")])]
        inference.system_instruction = [TextPart(content="Be brief.")]
        inference.tool_definitions = [FunctionToolDefinition(name="add", description=None, parameters={})]
        inference.output_messages = [OutputMessage(role="assistant", parts=[TextPart(content="4")])]


def test_what_was_said_in_a_rollout_is_on_the_span(
    handler: TelemetryHandler, make_rollout: Make, sink: Any
) -> None:
    with in_rollout(make_rollout()):
        call(handler)
    (span,) = sink.spans
    assert span.attributes[SAID][0]["parts"] == [{"content": "two and two?", "type": "text"}]
    assert span.attributes["gen_ai.output.messages"][0]["parts"][0]["content"] == "4"
    assert span.attributes["gen_ai.system_instructions"][0]["content"] == "Be brief."
    assert span.attributes["gen_ai.tool.definitions"][0]["name"] == "add"
    assert "agl.incomplete" not in span.attributes


def test_outside_of_rollouts_the_users_switch_decides(
    handler: TelemetryHandler, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for switch, expected in (("", False), ("span_only", True)):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", switch)
        with provider.get_tracer("t").start_as_current_span("chat") as span:
            CompletionHook().on_completion(inputs=[InputMessage(role="user", parts=[])])
        assert (SAID in span.attributes) is expected  # type: ignore[attr-defined]


def test_what_an_instrumentation_wrote_itself_stays(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    with in_rollout(make_rollout()), provider.get_tracer("t").start_as_current_span("chat") as span:
        span.set_attribute(SAID, "[]")
        CompletionHook().on_completion(inputs=[InputMessage(role="user", parts=[])], span=span)
    assert sink.spans[0].attributes[SAID] == []


def test_what_cannot_be_read_is_said(make_rollout: Make, sink: Any, provider: TracerProvider) -> None:
    endless: list[object] = []
    endless.append(endless)
    with in_rollout(make_rollout()), provider.get_tracer("t").start_as_current_span("chat"):
        CompletionHook().on_completion(inputs=endless)
    assert "could not read" in sink.spans[0].attributes["agl.incomplete"]
