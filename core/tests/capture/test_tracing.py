from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agentlightning.capture import RolloutContext, in_rollout, install_tracing, rollout_span
from agentlightning.errors import ConfigError
from agentlightning.types import SpanSource, SpanStatus

Make = Callable[..., RolloutContext]


def test_a_span_that_starts_in_a_rollout_is_stamped_and_handed_over(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("somebody")
    with in_rollout(make_rollout()):
        outer = tracer.start_span("outer")
        inner = tracer.start_span(
            "chat m", trace.set_span_in_context(outer), attributes={"gen_ai.operation.name": "chat"}
        )
        assert inner.attributes["agl.attempt.id"] == "r1-1"
        inner.end()
        outer.end()
    chat, other = sink.spans
    assert (chat.rollout_id, chat.attempt_id, chat.operation) == ("r1", "r1-1", "chat")
    assert (chat.parent_id, chat.trace_id) == (other.span_id, other.trace_id)
    assert (other.operation, other.source) == ("agl.operation", SpanSource.ADAPTER)
    assert (len(chat.span_id), len(chat.trace_id)) == (16, 32)
    assert 0 < chat.start_ns <= chat.end_ns
    assert chat.attributes == {}


def test_spans_outside_of_rollouts_are_left_alone(sink: Any, provider: TracerProvider) -> None:
    span = provider.get_tracer("t").start_span("x")
    span.end()
    assert sink.spans == []
    assert not span.attributes


def test_a_span_that_ends_after_its_rollout_still_arrives(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    with in_rollout(make_rollout()):
        span = provider.get_tracer("t").start_span("stream")
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()
    assert [found.name for found in sink.spans] == ["stream"]


def test_a_child_started_where_the_context_got_lost_follows_its_parent(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("t")
    with in_rollout(make_rollout()):
        parent = tracer.start_span("parent")

    def lost() -> None:
        with trace.use_span(parent):
            tracer.start_span("child").end()

    thread = threading.Thread(target=lost)
    thread.start()
    thread.join()
    assert [found.name for found in sink.spans] == ["child"]


def test_a_span_that_never_ends_is_forgotten(make_rollout: Make, provider: TracerProvider) -> None:
    context = make_rollout()
    with in_rollout(context):
        span = provider.get_tracer("t").start_span("abandoned")
    held = sys.getrefcount(context)
    del span
    gc.collect()
    assert sys.getrefcount(context) < held


def test_the_agent_in_baggage_is_stamped(make_rollout: Make, sink: Any, provider: TracerProvider) -> None:
    from opentelemetry import baggage

    with in_rollout(make_rollout()):
        carried = baggage.set_baggage("gen_ai.agent.name", "writer")
        provider.get_tracer("t").start_span("x", carried).end()
    assert sink.spans[0].agent == "writer"


def test_structure_comes_back_and_foreign_values_become_json(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    attributes = {
        "gen_ai.input.messages": '[{"role":"user"}]',
        "gen_ai.output.messages": "[cut off",
        "plain": '{"not": "decoded"}',
        "numbers": (1, 2.5),
        "odd": float("nan"),
    }
    with in_rollout(make_rollout()):
        provider.get_tracer("t").start_span("x", attributes=attributes).end()
    assert sink.spans[0].attributes == {
        "gen_ai.input.messages": [{"role": "user"}],
        "gen_ai.output.messages": "[cut off",
        "plain": '{"not": "decoded"}',
        "numbers": [1, 2.5],
        "odd": "nan",
    }


def test_events_are_kept_but_for_stack_traces(
    make_rollout: Make, sink: Any, provider: TracerProvider
) -> None:
    with in_rollout(make_rollout()):
        span = provider.get_tracer("t").start_span("x")
        span.add_event("gen_ai.user.message", {"content": "hello"}, timestamp=7)
        span.record_exception(ValueError("bad"), timestamp=8)
        span.end()
    message, failure = sink.spans[0].attributes["agl.events"]
    assert message == {"name": "gen_ai.user.message", "time_ns": 7, "attributes": {"content": "hello"}}
    assert failure["attributes"]["exception.message"] == "bad"
    assert "exception.stacktrace" not in failure["attributes"]


def test_an_error_status_is_kept(make_rollout: Make, sink: Any, provider: TracerProvider) -> None:
    with in_rollout(make_rollout()):
        span = provider.get_tracer("t").start_span("x")
        span.set_status(StatusCode.ERROR, "it broke")
        span.end()
    assert (sink.spans[0].status, sink.spans[0].error) == (SpanStatus.ERROR, "it broke")


def test_installing_twice_captures_once(make_rollout: Make, sink: Any, provider: TracerProvider) -> None:
    assert install_tracing(provider) is provider
    with in_rollout(make_rollout()):
        provider.get_tracer("t").start_span("x").end()
    assert len(sink.spans) == 1


def test_the_users_exporters_go_on_working(make_rollout: Make, sink: Any) -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    install_tracing(provider)
    with in_rollout(make_rollout()):
        provider.get_tracer("t").start_span("x").end()
    assert [span.name for span in exporter.get_finished_spans()] == ["x"]
    assert len(sink.spans) == 1


def run(code: str, **environment: str) -> str:
    """Runs code in a process of its own, for what is set once per process."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_a_provider_is_set_when_there_is_none() -> None:
    code = (
        "from opentelemetry import trace\n"
        "from agentlightning.capture import install_tracing\n"
        "print(install_tracing() is trace.get_tracer_provider() is install_tracing())"
    )
    assert run(code).strip() == "True"


def test_tracing_that_is_switched_off_is_an_error() -> None:
    code = "from agentlightning.capture import install_tracing\ninstall_tracing()"
    assert "ConfigError: tracing is switched off by OTEL_SDK_DISABLED" in run(code, OTEL_SDK_DISABLED="true")


def test_a_provider_that_takes_no_processors_is_an_error() -> None:
    with pytest.raises(ConfigError, match="NoOpTracerProvider"):
        install_tracing(trace.NoOpTracerProvider())  # type: ignore[arg-type]


SAMPLED_OUT = """
from opentelemetry import trace
from agentlightning.capture import RolloutContext, install_tracing, rollout_span
from agentlightning.types import Mode

class Sink:
    def add(self, span):
        print(span.name, span.parent_id is None)

install_tracing()
context = RolloutContext(rollout_id="r", attempt_id="a", mode=Mode.TRAIN, sink=Sink())
with rollout_span(context, task={}):
    trace.get_tracer("t").start_span("child").end()
trace.get_tracer("t").start_span("not in a rollout").end()
"""


def test_rollouts_are_recorded_where_the_process_samples_its_traces_away() -> None:
    environment = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.0"}
    assert run(SAMPLED_OUT, **environment).splitlines() == ["child False", "rollout True"]


def test_capture_loads_no_sdk_until_it_is_installed() -> None:
    code = (
        "import sys, agentlightning.capture, agentlightning.emit\nprint('opentelemetry.sdk' in sys.modules)"
    )
    assert run(code).strip() == "False"


def test_a_rollout_span_is_the_root_and_has_the_task(make_rollout: Make, sink: Any) -> None:
    install_tracing()
    tracer = trace.get_tracer("t")
    with tracer.start_as_current_span("around"), rollout_span(make_rollout(), task={"question": 1}):
        tracer.start_span("inside").end()
    inside, root = sink.spans
    assert (root.operation, root.source, root.parent_id) == ("agl.rollout", SpanSource.RUNNER, None)
    assert root.attributes == {"agl.task": {"question": 1}}
    assert inside.parent_id == root.span_id


def test_what_a_rollout_raises_gets_out_and_is_noted(make_rollout: Make, sink: Any) -> None:
    install_tracing()
    error = RuntimeError("boom")
    with pytest.raises(RuntimeError) as caught, rollout_span(make_rollout(), task=None):
        raise error
    assert caught.value is error
    root = sink.one("agl.rollout")
    assert (root.status, root.error) == (SpanStatus.ERROR, "RuntimeError: boom")
    assert root.attributes["error.type"] == "RuntimeError"


def test_a_cancelled_rollout_is_no_error(make_rollout: Make, sink: Any) -> None:
    install_tracing()
    with pytest.raises(asyncio.CancelledError), rollout_span(make_rollout(), task=None):
        raise asyncio.CancelledError
    root = sink.one("agl.rollout")
    assert (root.status, root.attributes["agl.cancelled"]) == (SpanStatus.UNSET, True)
