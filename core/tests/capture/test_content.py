"""Whether content is recorded, what it is recorded as, and who else is at work."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from agentlightning import semconv
from agentlightning.capture import RolloutContext, in_rollout
from agentlightning.capture.content import recorded, say, to_text
from agentlightning.capture.instrumentations import at_work, is_wrapped
from agentlightning.capture.model_call import ended_by, inside_call
from agentlightning.types import Mode

SWITCH = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
ROLLOUT = RolloutContext(rollout_id="r", attempt_id="a", mode=Mode.TRAIN, sink=None)  # type: ignore[arg-type]


def attributes(span: trace.Span) -> dict[str, object]:
    assert isinstance(span, ReadableSpan)
    return dict(span.attributes or {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("SPAN_ONLY", True), ("false", False), ("", False), ("yes", False)],
)
def test_the_users_switch_counts_outside_of_rollouts(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert recorded() is expected
    with in_rollout(ROLLOUT):
        assert recorded()


def test_what_is_said_is_text_and_what_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    span = TracerProvider().get_tracer("t").start_span("s")
    say(span, "outside", lambda: "text")
    with in_rollout(ROLLOUT), caplog.at_level(logging.CRITICAL):
        say(span, "text", lambda: "text")
        say(span, "data", lambda: {"a": 1})
        say(span, "broken", lambda: 1 // 0)
    assert attributes(span) == {"text": "text", "data": '{"a":1}'}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
        max_leaves=8,
    )
)
def test_everything_has_a_text(value: Any) -> None:
    json.loads(to_text(value))


def test_objects_are_described_as_told() -> None:
    assert to_text([complex(1)]) == '["(1+0j)"]'
    assert to_text([complex(1)], plain=lambda value: {"real": value.real}) == '[{"real":1.0}]'


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([], False),
        (["lightning_adapter_x"], False),
        (["openinference.instrumentation.x"], True),
        (["lightning_adapter_x", "opentelemetry.instrumentation.x"], True),
    ],
)
def test_wrappers_of_others_are_found_below_ones_own(modules: list[str], expected: bool) -> None:
    method: Any = SimpleNamespace()
    for module in reversed(modules):
        wrapper = SimpleNamespace(__module__=module)
        method = SimpleNamespace(_self_wrapper=wrapper, __wrapped__=method)
    assert is_wrapped(method) is expected


def test_an_instrumentor_of_a_package_that_is_not_loaded_is_not_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not at_work("not_loaded", "Instrumentor")
    for working in (True, False):
        found = SimpleNamespace(
            Instrumentor=lambda w=working: SimpleNamespace(is_instrumented_by_opentelemetry=w)
        )
        monkeypatch.setitem(__import__("sys").modules, "loaded_toy", found)
        assert at_work("loaded_toy", "Instrumentor") is working


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), {semconv.ERROR_TYPE: "ValueError"}),
        (asyncio.CancelledError(), {semconv.CANCELLED: True}),
    ],
)
def test_a_span_ends_with_its_block_and_says_why(error: BaseException, expected: dict[str, object]) -> None:
    span = TracerProvider().get_tracer("t").start_span("s")

    def fail() -> None:
        with ended_by(span):
            assert trace.get_current_span() is not span
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert attributes(span) == expected
    assert not span.is_recording()


def test_a_span_that_ends_well_says_nothing() -> None:
    span = TracerProvider().get_tracer("t").start_span("s")
    with ended_by(span):
        pass
    assert attributes(span) == {}
    assert not span.is_recording()


def test_a_call_is_known_by_its_scope_and_operation() -> None:
    provider = TracerProvider()
    chat = {semconv.OPERATION: semconv.OPERATION_CHAT}
    assert not inside_call("mine")
    with provider.get_tracer("mine").start_as_current_span("s"):
        assert not inside_call("mine")
    with provider.get_tracer("mine").start_as_current_span("s", attributes=chat):
        assert inside_call("mine")
        assert not inside_call("other")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"half": "\ud800"}, {"half": "\ud800"}),
        ({"large": 2**70}, {"large": 2**70}),
    ],
)
def test_what_the_fast_encoder_refuses_is_told_as_far_as_it_goes(value: Any, expected: Any) -> None:
    assert json.loads(to_text(value)) == expected
