from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import math
from collections.abc import Iterator

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import agentlightning as agl
from agentlightning.capture import RolloutContext, in_rollout, install_tracing
from agentlightning.errors import InvalidReward, NotFound
from agentlightning.types import (
    Mode,
    ModelEndpoint,
    PromptTemplate,
    RewardSource,
    Span,
    SpanStatus,
    reward_of,
)


class Emitted(list[Span]):
    """Spans of the current rollout, and the sink they go to."""

    add = list.append

    def one(self, operation: str) -> Span:
        (found,) = [span for span in self if span.operation == operation]
        return found


def context(sink: Emitted, **fields: object) -> RolloutContext:
    return RolloutContext(rollout_id="r", attempt_id="a", mode=Mode.TRAIN, sink=sink, **fields)  # type: ignore[arg-type]


@pytest.fixture
def emitted() -> Iterator[Emitted]:
    """What the test emits, inside a rollout."""
    install_tracing()
    sink = Emitted()
    with in_rollout(context(sink)):
        yield sink


@dataclasses.dataclass
class Plan:
    steps: list[object]


class Colour(enum.Enum):
    RED = "red"


class Note(pydantic.BaseModel):
    text: str


class Point(msgspec.Struct):
    x: int


def test_state_action_object_and_message_become_spans(emitted: Emitted) -> None:
    agl.emit_state({"plan": Plan([Colour.RED, (1, 2)]), "at": Point(3), "note": Note(text="ü")})
    agl.emit_action(["move", 1])
    agl.emit_object(dt.date(2026, 11, 20))
    agl.emit_message("thinking")
    assert emitted.one("agl.state").attributes["agl.state"] == {
        "plan": {"steps": ["red", [1, 2]]},
        "at": {"x": 3},
        "note": {"text": "ü"},
    }
    assert emitted.one("agl.action").attributes["agl.action"] == ["move", 1]
    assert emitted.one("agl.object").attributes["agl.object"] == "2026-11-20"
    assert emitted.one("agl.message").attributes["agl.message"] == "thinking"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"foo": [0, 1, 2, object()]}, r"state\.foo\[3\] is a object"),
        ({"foo": {"bar": math.nan}}, r"state\.foo\.bar is nan"),
        ([math.inf], r"state\[0\] is inf"),
        ({1: 2}, r"state has the key 1; JSON keys are strings, use '1'"),
        (Plan([Plan([lambda: None])]), r"state\.steps\[0\]\.steps\[0\] is a function"),
        ({"big": 2**64}, r"state\.big is 18446744073709551616, beyond 64 bits"),
        ({"text": "\ud800"}, r"state\.text is no valid text"),
        ({"\ud800": 1}, r"a key of state is no valid text"),
        ({"type": Plan}, r"state\.type is a type"),
    ],
)
def test_what_cannot_be_expressed_is_named_by_its_path(emitted: Emitted, value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        agl.emit_state(value)
    assert emitted == []


def test_a_value_that_refers_to_itself_is_refused(emitted: Emitted) -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="refers to itself"):
        agl.emit_object(loop)


def test_a_message_is_a_string(emitted: Emitted) -> None:
    with pytest.raises(TypeError, match="emit_object"):
        agl.emit_message(3)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(value=JSON)
def test_json_comes_back_as_it_was(value: object) -> None:
    install_tracing()
    sink = Emitted()
    with in_rollout(context(sink)):
        agl.emit_state(value)
    assert sink[0].attributes["agl.state"] == value


def test_a_reward_is_the_outcome(emitted: Emitted) -> None:
    agl.emit_reward(0.5, reason="half right")
    reward = reward_of(emitted.one("agl.reward"))
    assert reward is not None
    assert (reward.value, reward.dimension, reward.target) == (0.5, "reward", None)
    assert (reward.source, reward.reason) == (RewardSource.AGENT, "half right")


def test_a_reward_by_dimension_is_one_span_each(emitted: Emitted) -> None:
    agl.emit_reward({"correct": 1, "brief": 0.25})
    assert [(one.dimension, one.value) for span in emitted if (one := reward_of(span))] == [
        ("correct", 1.0),
        ("brief", 0.25),
    ]


def test_a_reward_can_be_aimed_at_a_span_or_an_operation(emitted: Emitted) -> None:
    with agl.operation("plan") as operation:
        agl.emit_reward(1.0, target=operation)
        agl.emit_reward(2.0, target=trace.get_current_span())
    plan = emitted.one("agl.operation")
    targets = [reward.target for span in emitted if (reward := reward_of(span))]
    assert targets == [plan.span_id, plan.span_id]


def test_a_reward_is_also_an_evaluation_event_that_other_exporters_see(emitted: Emitted) -> None:
    exporter = InMemorySpanExporter()
    install_tracing().add_span_processor(SimpleSpanProcessor(exporter))
    with agl.operation("plan") as operation:
        agl.emit_reward(1.0, target=operation)
    agl.emit_reward(0.5)
    rewarded = {span.name: span.events for span in exporter.get_finished_spans()}
    (event,) = rewarded["plan"]
    assert event.name == "gen_ai.evaluation.result"
    assert event.attributes["gen_ai.evaluation.score.value"] == 1.0
    assert [event.name for event in rewarded["reward reward"]] == ["gen_ai.evaluation.result"]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None, {}, {"a": math.nan}, {1: 1.0}])
def test_a_bad_reward_is_refused_in_and_out_of_rollouts(value: object, emitted: Emitted) -> None:
    with pytest.raises(InvalidReward):
        agl.emit_reward(value)  # type: ignore[arg-type]
    assert emitted == []


@pytest.mark.parametrize("value", [math.nan, True])
def test_a_bad_reward_is_refused_outside_too(value: object) -> None:
    with pytest.raises(InvalidReward):
        agl.emit_reward(value)  # type: ignore[arg-type]


def test_a_target_of_another_kind_is_refused(emitted: Emitted) -> None:
    with pytest.raises(TypeError, match="target is a str"):
        agl.emit_reward(1.0, target="x")  # type: ignore[arg-type]


def test_nothing_happens_outside_of_rollouts() -> None:
    agl.emit_state({"not even": object()})
    agl.emit_action(object())
    agl.emit_object(object())
    agl.emit_message("x")
    agl.emit_reward(1.0)
    assert agl.decide("tool", [object()]) is not None
    with agl.operation("plan") as operation:
        agl.emit_reward(1.0, target=operation)
        assert not trace.get_current_span().is_recording()


def test_an_operation_is_the_parent_of_what_happens_inside(emitted: Emitted) -> None:
    with agl.operation("plan"), agl.operation("draft", agent="writer"):
        agl.emit_message("x")
    message, draft, plan = emitted
    assert (message.parent_id, draft.parent_id) == (draft.span_id, plan.span_id)
    assert (draft.operation, draft.agent, draft.attributes["agl.location"]) == (
        "invoke_agent",
        "writer",
        "draft",
    )
    assert plan.operation == "agl.operation"


def test_a_sync_function_can_be_an_operation(emitted: Emitted) -> None:
    @agl.operation("double")
    def double(number: int, *, times: int = 2) -> int:
        return number * times

    assert (double(2), double(2, times=3), double.__name__) == (4, 6, "double")
    assert [span.name for span in emitted] == ["double", "double"]


async def test_concurrent_calls_of_an_async_operation_do_not_mix(emitted: Emitted) -> None:
    @agl.operation("outer")
    async def outer(number: int) -> None:
        await asyncio.sleep(0)
        agl.emit_message(str(number))
        await asyncio.sleep(0)

    await asyncio.gather(*map(outer, range(8)))
    outers = {span.span_id for span in emitted if span.name == "outer"}
    assert len(outers) == 8
    assert {span.parent_id for span in emitted if span.name == "message"} == outers


def test_an_operation_notes_what_it_raises_and_lets_it_out(emitted: Emitted) -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught, agl.operation("plan"):
        raise error
    assert caught.value is error
    assert (emitted[0].status, emitted[0].attributes["error.type"]) == (SpanStatus.ERROR, "KeyError")


async def test_a_cancelled_operation_is_no_error(emitted: Emitted) -> None:
    with pytest.raises(asyncio.CancelledError), agl.operation("plan"):
        raise asyncio.CancelledError
    assert (emitted[0].status, emitted[0].attributes["agl.cancelled"]) == (SpanStatus.UNSET, True)


def test_an_operation_is_one_block_at_a_time(emitted: Emitted) -> None:
    operation = agl.operation("plan")
    with operation, pytest.raises(RuntimeError, match="open already"):
        operation.__enter__()
    with operation:
        pass
    assert len(emitted) == 2


def test_generators_cannot_be_operations() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        agl.operation("x")(numbers)


def test_a_decision_takes_the_first_option_and_is_recorded(emitted: Emitted) -> None:
    assert agl.decide("tool", ["search", "answer"], context={"turn": 1}) == "search"
    assert emitted.one("agl.decision").attributes == {
        "agl.decision.name": "tool",
        "agl.decision.options": ["search", "answer"],
        "agl.decision.choice": "search",
        "agl.decision.propensity": 1.0,
        "agl.state": {"turn": 1},
    }


def test_a_decision_needs_options() -> None:
    with pytest.raises(ValueError, match="no options"):
        agl.decide("tool", [])


def test_resources_and_prompts_are_those_of_the_rollout() -> None:
    model, system = ModelEndpoint(model="m"), PromptTemplate(template="Be {tone}.")
    with in_rollout(context(Emitted(), resources={"model": model, "system": system})):
        assert agl.resource("model") is model
        assert agl.prompt("system").render(tone="brief") == "Be brief."
        with pytest.raises(NotFound, match="no resource 'memory'; it has 'model', 'system'"):
            agl.resource("memory")
        with pytest.raises(
            NotFound, match="of kind 'model', but no prompt 'model'; its prompts are 'system'"
        ):
            agl.prompt("model")
        with pytest.raises(LookupError, match="no resource 'user'"):
            agl.prompt("user")


def test_a_resource_outside_of_rollouts_is_an_error_that_says_so() -> None:
    with pytest.raises(NotFound, match="outside of a rollout"):
        agl.prompt("system")
