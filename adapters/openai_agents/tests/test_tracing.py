"""The SDK's own traces: none to the vendor, the user's processors undisturbed, and captured though switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    Model,
    RunConfig,
    Runner,
    custom_span,
    function_tool,
    set_trace_processors,
    set_tracing_disabled,
    trace,
)
from agents.tracing import TracingProcessor, setup
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
from agents.tracing.provider import DefaultTraceProvider

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from lightning_adapter_openai_agents import OpenAIAgentsAdapter


class Listener(TracingProcessor):
    """A processor of the user's own."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_trace_start(self, trace: Any) -> None:
        self.heard.append("trace")

    def on_trace_end(self, trace: Any) -> None: ...

    def on_span_start(self, span: Any) -> None:
        self.heard.append(span.span_data.type)

    def on_span_end(self, span: Any) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


class Exporter(BackendSpanExporter):
    """The vendor's, as far as it needs no vendor."""

    def __init__(self) -> None:
        super().__init__(api_key="vendors-key", endpoint="http://127.0.0.1:9/")
        self.sent: list[Any] = []

    def export(self, items: list[Any], *_: Any) -> None:
        self.sent += items


@pytest.fixture
def listener() -> Iterator[Listener]:
    """The only processor, for the time of a test."""
    listener = Listener()
    set_trace_processors([listener])
    yield listener
    set_trace_processors([])
    set_tracing_disabled(False)


async def test_nothing_goes_to_the_vendor(stage: Any, model: Model) -> None:
    exporter = Exporter()
    processor = BatchTraceProcessor(exporter)
    set_trace_processors([processor])
    try:
        with in_rollout(stage.rollout()):
            await Runner.run(Agent(name="a", model=model), "hi")
        processor.force_flush()
        assert exporter.sent == []
        stage.adapter.uninstrument()
        with trace("of the user's own"):
            pass
        processor.force_flush()
        assert len(exporter.sent) == 1
    finally:
        set_trace_processors([])
        processor.shutdown()


async def test_the_users_processors_hear_what_they_heard(
    stage: Any, model: Model, listener: Listener
) -> None:
    with in_rollout(stage.rollout()):
        await Runner.run(Agent(name="a", model=model), "hi")
    assert listener.heard == ["trace", "task", "agent", "turn", "response"]
    assert len(stage.of(semconv.OPERATION_AGENT)) == 1


async def test_in_rollouts_it_captures_though_tracing_is_disabled(
    stage: Any, model: Model, listener: Listener
) -> None:
    set_tracing_disabled(True)
    agent = Agent(name="a", model=model)
    await stage.play(agent, stage.rollout())
    assert listener.heard == []
    (span,) = stage.of(semconv.OPERATION_AGENT)
    (chat,) = stage.of(semconv.OPERATION_CHAT)
    assert stage.above(chat).span_id == span.span_id


@pytest.mark.parametrize("disabled", [False, True])
async def test_a_run_that_waited_for_approval_goes_on_below_its_agent(
    stage: Any, model: Model, listener: Listener, disabled: bool
) -> None:
    @function_tool(needs_approval=True)
    def send(to: str) -> str:
        """Sends a letter."""
        return f"sent to {to}"

    set_tracing_disabled(disabled)
    agent = Agent(name="a", model=model, tools=[send])
    call = ScriptedToolCall(name="send", arguments={"to": "Ann"})
    stage.replies = [ScriptedAnswer(tool_calls=(call,))]
    with in_rollout(stage.rollout()):
        waiting = await Runner.run(agent, "hi")
        state = waiting.to_state()
        state.approve(waiting.interruptions[0])
        await Runner.run(agent, state)
    chats = stage.of(semconv.OPERATION_CHAT)
    assert [stage.above(chat).agent for chat in chats] == ["a", "a"]
    used = stage.of(semconv.OPERATION_TOOL)[-1]
    assert used.attributes[semconv.TOOL_CALL_RESULT] == "sent to Ann"
    assert stage.above(used).agent == "a"
    assert bool(listener.heard) is not disabled


async def test_in_rollouts_it_captures_runs_that_are_not_traced(
    stage: Any, model: Model, listener: Listener
) -> None:
    with in_rollout(stage.rollout()):
        await Runner.run(Agent(name="a", model=model), "hi", run_config=RunConfig(tracing_disabled=True))
    assert listener.heard == []
    assert len(stage.of(semconv.OPERATION_AGENT)) == 1


def test_spans_of_ones_own_are_captured(stage: Any, listener: Listener) -> None:
    with in_rollout(stage.rollout()), trace("workflow"), custom_span("search", {"query": "x"}):
        pass
    span = stage.named("search")
    assert span.attributes[semconv.OBJECT] == {"query": "x"}


def test_a_span_that_fails_says_why(stage: Any, listener: Listener) -> None:
    with in_rollout(stage.rollout()), pytest.raises(RuntimeError), trace("workflow"), custom_span("search"):
        raise RuntimeError("nothing found")
    assert stage.named("search").error == "RuntimeError: nothing found"


def test_what_is_handled_around_a_span_is_no_failure_of_it(stage: Any, listener: Listener) -> None:
    with in_rollout(stage.rollout()), trace("workflow"):
        try:
            raise RuntimeError("first try")
        except RuntimeError:
            with custom_span("second try"):
                pass
    assert stage.named("second try").error is None


def test_settings_of_the_user_outlive_the_adapter(stage: Any, listener: Listener) -> None:
    adapter = OpenAIAgentsAdapter()
    stage.adapter.uninstrument()
    before = setup.get_trace_provider()
    adapter.instrument(stage.provider)
    set_trace_processors([other := Listener()])
    set_tracing_disabled(True)
    adapter.uninstrument()
    assert setup.get_trace_provider() is before
    assert isinstance(before, DefaultTraceProvider)
    assert before._multi_processor._processors == (other,)
    assert before._disabled
