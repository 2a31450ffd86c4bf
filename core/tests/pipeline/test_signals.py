from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentlightning import semconv
from agentlightning.errors import ConfigError
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, SpanStatus, TokenRecord

if TYPE_CHECKING:
    from core.tests.pipeline.conftest import Run

CHAT, TOOL = semconv.OPERATION_CHAT, semconv.OPERATION_TOOL
ERROR = SpanStatus.ERROR
ALL: dict[str, object] = {
    "tool_error": -1.0,
    "tool_ok": 0.125,
    "repeated_tool": -0.5,
    "call_error": -2.0,
    "truncated": -4.0,
    "guardrail": -8.0,
    "error": -16.0,
}


def signals(done: Experience) -> list[dict[str, float]]:
    return [one.signals for one in done.trajectories[0].transitions]


def remarks(done: Experience, stage: str) -> dict[str, int]:
    return next(report.remarks for report in done.reports if report.stage == stage)


def asking(build: EpisodeBuilder, call_id: str, *, agent: str | None = None) -> str:
    """A call whose answer asks for a tool."""
    answer = [
        {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": {"name": "f"}}]}
    ]
    record = TokenRecord.pack([1], [2], [-0.5], version=0)
    return build.span(CHAT, agent=agent, attributes={semconv.OUTPUT_MESSAGES: answer}, tokens=(record,))


def test_without_weights_nothing_is_a_signal(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    build.span(TOOL, status=ERROR)
    assert signals(run(build, upto="signals", signals={})) == [{}]


def test_a_tool_s_end_belongs_to_the_call_that_asked_for_it(run: Run) -> None:
    build = EpisodeBuilder()
    asking(build, "one")
    asking(build, "two")
    build.span(TOOL, name="f", attributes={semconv.TOOL_CALL_ID: "one"}, status=ERROR)
    build.span(TOOL, name="g", attributes={semconv.TOOL_CALL_ID: "two"})
    done = run(build, upto="signals", signals=ALL)
    assert signals(done) == [{"tool_error": -1.0}, {"tool_ok": 0.125}]


def test_without_an_id_it_belongs_to_the_last_decision_of_the_same_agent(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2], agent="a")
    build.call([1], [2], agent="b")
    build.span(TOOL, agent="a")
    build.span(TOOL, name="other")
    assert signals(run(build, upto="signals", signals=ALL)) == [{"tool_ok": 0.125}, {"tool_ok": 0.125}]


def test_it_belongs_to_the_decision_that_it_happened_in(run: Run) -> None:
    build = EpisodeBuilder()
    outer = build.call([1], [2])
    build.call([1], [3])
    build.span("guardrail", parent=outer, attributes={"agl.guardrail.triggered": True})
    assert signals(run(build, upto="signals", signals=ALL)) == [{"guardrail": -8.0}, {}]


def test_the_same_tool_called_again_with_the_same_arguments_is_a_retry(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    for arguments in ("{}", "{}", '{"x": 1}', "{}"):
        build.span(TOOL, name="f", attributes={semconv.TOOL_CALL_ARGUMENTS: arguments})
    assert signals(run(build, upto="signals", signals={"repeated_tool": -0.5})) == [{"repeated_tool": -0.5}]


def test_failed_and_truncated_calls_are_signals(run: Run) -> None:
    build = EpisodeBuilder()
    record = TokenRecord.pack([1], [2], [-0.5], version=0, finish_reason="length")
    build.span(CHAT, tokens=(record,))
    build.call([1], [], status=ERROR)
    build.call([1], [], status=ERROR)
    assert signals(run(build, upto="signals", signals=ALL)) == [{"truncated": -4.0, "call_error": -4.0}]


def test_an_error_counts_once_and_not_in_all_that_contains_it(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    outer = build.span(semconv.OPERATION_AGENT, status=ERROR)
    inner = build.span(semconv.OPERATION_OTHER, parent=outer, status=ERROR)
    build.span(TOOL, parent=inner, status=ERROR)
    build.span(semconv.OPERATION_OTHER, status=ERROR)
    done = run(build, upto="signals", signals=ALL)
    assert signals(done) == [{"error": -16.0, "tool_error": -1.0}]


def test_what_belongs_to_no_transition_is_remarked_on(run: Run) -> None:
    build = EpisodeBuilder()
    build.span(TOOL)
    build.call([1], [2], agent="partner")
    build.span(TOOL, agent="partner", name="g")
    build.call([1], [2], agent="trained")
    done = run(build, upto="signals", signals=ALL, select={"agents": ["trained"]})
    assert signals(done) == [{}]
    assert remarks(done, "signals") == {"tool_ok follows no transition": 2}


def test_a_mistyped_signal_is_refused_with_the_nearest_name(run: Run) -> None:
    with pytest.raises(ConfigError, match="'tool_eror'; did you mean 'tool_error'"):
        run(signals={"tool_eror": 1.0})


# select


def test_models_and_kinds_of_decision_are_selected(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    record = TokenRecord.pack([1], [2], [-0.5], version=0)
    build.span(CHAT, attributes={semconv.RESPONSE_MODEL: "judge"}, tokens=(record,))
    build.span(semconv.OPERATION_ACTION, attributes={semconv.ACTION: "left"})
    done = run(build, upto="transitions", select={"models": ["model"]})
    assert [one.model for one in done.trajectories[0].transitions] == ["model", ""]
    done = run(build, upto="transitions", select={"operations": ["agl.action"]})
    assert [one.action for one in done.trajectories[0].transitions] == ["left"]
    dropped = next(report.dropped for report in done.reports if report.stage == "transitions")
    assert dropped == {"operation 'chat' is not trained": 2}


def test_what_is_environment_still_shapes_the_state(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2], agent="partner")
    build.span(semconv.OPERATION_STATE, agent="partner", attributes={semconv.STATE: {"round": 2}})
    build.call([1], [3], agent="trained")
    build.reward(1.0)
    done = run(build, select={"agents": ["trained"]})
    (only,) = done.trajectories[0].transitions
    assert isinstance(only.state, dict)
    assert only.state["emitted"] == {"round": 2}
    assert done.trajectories[0].outcome == 1.0


def test_a_name_that_selects_nothing_is_remarked_on(run: Run) -> None:
    build = EpisodeBuilder()
    build.call([1], [2], agent="writer")
    done = run(build, upto="select", select={"agents": ["writr"], "models": ["model"]})
    assert remarks(done, "select") == {"no decision is by agent 'writr'; there are 'writer'": 1}
