from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, INCOMPLETE, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import (
    Episode,
    Experience,
    Json,
    Span,
    SpanSource,
    SpanStatus,
    Trajectory,
)

CHAT = semconv.OPERATION_CHAT
ADAPTER = SpanSource.ADAPTER


def run(*episodes: Episode, upto: str = "forest", **params: dict[str, Json]) -> Experience:
    specs = {spec.name: spec for spec in BUILTIN_STAGES}
    names = [spec.name for spec in BUILTIN_STAGES if spec.default or spec.name in params]
    chosen = [(name, params.get(name, {})) for name in names[: names.index(upto) + 1]]
    pipeline = Pipeline.from_specs(specs, load=lambda spec: load_target(spec.target), chosen=chosen)
    return pipeline.run(Experience(episodes=episodes))


def spans(experience: Experience) -> list[Span]:
    return list(experience.episodes[0].spans)


def trajectory(experience: Experience) -> Trajectory:
    (found,) = experience.trajectories
    return found


def dropped(experience: Experience, stage: str) -> dict[str, int]:
    return next(report.dropped for report in experience.reports if report.stage == stage)


# join


def test_a_gateway_span_below_a_framework_span_becomes_one_call() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, name="writer.llm", source=ADAPTER, agent="writer", attributes={"framework": "x"})
    build.call([1, 2], [3], parent=outer)
    (call,) = spans(run(build.build(), upto="join"))
    assert (call.span_id, call.name, call.agent) == (outer, "writer.llm", "writer")
    assert list(call.tokens[0].response_ids) == [3]
    assert call.attributes["framework"] == "x"
    assert call.attributes[semconv.INPUT_MESSAGES] == [{"role": "user", "content": "1 2"}]


def test_spans_with_one_response_id_become_one_call() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER, agent="a", attributes={semconv.RESPONSE_ID: "x1"})
    build.call([1], [2], response_id="x1")
    (call,) = spans(run(build.build(), upto="join"))
    assert call.span_id == outer
    assert call.tokens


def test_repeated_response_ids_join_pair_by_pair() -> None:
    build = EpisodeBuilder()
    outer = [build.span(CHAT, source=ADAPTER, attributes={semconv.RESPONSE_ID: "same"}) for _ in range(2)]
    for token in (5, 6, 7):
        build.call([1], [token], response_id="same")
    joined = spans(run(build.build(), upto="join"))
    assert {span.span_id: list(span.tokens[0].response_ids) for span in joined} == {
        outer[0]: [5],
        outer[1]: [6],
        joined[2].span_id: [7],
    }


def test_of_an_sdk_s_retries_the_answer_is_the_call() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER)
    failed = build.call([1], [], parent=outer, status=SpanStatus.ERROR)
    build.call([1], [2], parent=outer)
    assert [(span.span_id, len(span.tokens)) for span in spans(run(build.build(), upto="join"))] == [
        (outer, 1),
        (failed, 0),
    ]


def test_frameworks_on_top_of_each_other_are_one_call_named_by_the_outermost() -> None:
    build = EpisodeBuilder()
    outermost = build.span(CHAT, name="chain.llm", source=ADAPTER, agent="planner")
    middle = build.span(CHAT, name="sdk.chat", source=ADAPTER, parent=outermost)
    build.call([1], [2], parent=middle)
    (call,) = spans(run(build.build(), upto="join"))
    assert (call.span_id, call.name, call.agent, len(call.tokens)) == (outermost, "chain.llm", "planner", 1)


def test_rewards_and_children_of_a_joined_span_follow_it() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER)
    inner = build.call([1], [2], parent=outer)
    build.span(semconv.OPERATION_MESSAGE, parent=inner)
    build.reward(1.0, target=inner)
    _, message, reward = spans(run(build.build(), upto="join"))
    assert message.parent_id == outer
    assert reward.attributes[semconv.REWARD_TARGET] == outer


def test_spans_without_a_partner_stay() -> None:
    build = EpisodeBuilder()
    agent = build.span(semconv.OPERATION_AGENT, source=ADAPTER, agent="a")
    build.call([1], [2], parent=agent)
    build.span(CHAT, source=ADAPTER)
    episode = build.build()
    assert run(episode, upto="join").episodes == (episode,)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_each_gateway_call_is_there_exactly_once_after_joining(data: st.DataObject) -> None:
    build = EpisodeBuilder()
    for number in range(data.draw(st.integers(0, 8))):
        known = [span.span_id for span in build.build().spans]
        parent = data.draw(st.sampled_from([None, *known, "unknown"]))
        name = data.draw(st.sampled_from([None, "x", "y"]))
        if data.draw(st.booleans()):
            build.call([1], [number], parent=parent, response_id=name)
        else:
            build.span(
                CHAT, source=ADAPTER, parent=parent, attributes={semconv.RESPONSE_ID: name} if name else {}
            )
    before = build.build()
    after = run(before, upto="join").episodes[0]
    recorded = [list(span.tokens[0].response_ids) for span in before.spans if span.tokens]
    assert sorted(list(span.tokens[0].response_ids) for span in after.spans if span.tokens) == recorded
    assert {span.span_id for span in after.spans} <= {span.span_id for span in before.spans}
    assert len({span.span_id for span in after.spans}) == len(after.spans)


# order


def test_a_parent_comes_before_its_children_although_its_clock_is_ahead() -> None:
    build = EpisodeBuilder()
    parent = build.span("invoke_agent", start_ns=100)
    early = build.span("agl.message", start_ns=50)
    child = build.span("agl.message", parent=parent, start_ns=10)
    assert [span.span_id for span in spans(run(build.build(), upto="order"))] == [early, parent, child]


def test_spans_in_a_circle_are_ordered_by_time() -> None:
    build = EpisodeBuilder()
    build.span("agl.message", parent=f"{2:016x}")
    build.span("agl.message", parent=f"{1:016x}")
    build.span("agl.message")
    assert [span.sequence for span in spans(run(build.build(), upto="order"))] == [3, 1, 2]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8), st.randoms(use_true_random=False)
)
def test_the_order_of_arrival_is_irrelevant(shape: list[tuple[int, int]], rng: random.Random) -> None:
    build = EpisodeBuilder()
    for start, parent in shape:
        build.span("agl.message", parent=f"{parent:016x}", start_ns=start)
    episode = build.build()
    shuffled = rng.sample(episode.spans, len(episode.spans))
    mixed = msgspec.structs.replace(episode, spans=tuple(shuffled))
    assert spans(run(mixed, upto="order")) == spans(run(episode, upto="order"))


# transitions


def test_calls_decisions_and_actions_become_transitions_in_order() -> None:
    build = EpisodeBuilder()
    build.call([1, 2], [3])
    build.span(
        semconv.OPERATION_DECISION,
        attributes={
            semconv.DECISION_NAME: "tool",
            semconv.DECISION_OPTIONS: ["a", "b"],
            semconv.DECISION_CHOICE: "b",
        },
    )
    build.span(semconv.OPERATION_ACTION, attributes={semconv.ACTION: {"move": 1}})
    call, decision, action = trajectory(run(build.build(), upto="transitions")).transitions
    assert [each.index for each in (call, decision, action)] == [0, 1, 2]
    assert call.state == {"messages": [{"role": "user", "content": "1 2"}]}
    assert call.action == {"role": "assistant", "content": "3"}
    assert (call.id, call.model) == ("rollout-1/0000000000000001", "model")
    assert (decision.state, decision.action) == ({"options": ["a", "b"]}, {"name": "tool", "choice": "b"})
    assert (action.action, action.tokens) == ({"move": 1}, None)


def test_the_state_includes_what_the_program_emitted_last() -> None:
    build = EpisodeBuilder()
    build.span(semconv.OPERATION_STATE, attributes={semconv.STATE: {"round": 1}})
    build.span(semconv.OPERATION_STATE, attributes={semconv.STATE: {"round": 2}})
    build.call([1], [2])
    (call,) = trajectory(run(build.build(), upto="transitions")).transitions
    assert isinstance(call.state, dict)
    assert call.state["emitted"] == {"round": 2}


def test_agent_and_location_come_from_the_nearest_that_says() -> None:
    build = EpisodeBuilder()
    team = build.span(semconv.OPERATION_AGENT, agent="team")
    writer = build.span(semconv.OPERATION_AGENT, agent="writer", parent=team)
    plan = build.span(semconv.OPERATION_OTHER, name="plan", parent=writer)
    build.call([1], [2], parent=plan)
    build.call([1], [2], parent=plan, agent="critic")
    build.call([1], [2], parent=team)
    found = trajectory(run(build.build(), upto="transitions")).transitions
    assert [(each.agent, each.location) for each in found] == [
        ("writer", "plan"),
        ("critic", "plan"),
        ("team", ""),
    ]


def test_only_the_agents_to_train_have_transitions_and_the_others_are_counted() -> None:
    build = EpisodeBuilder()
    build.call([1], [2], agent="writer")
    build.call([1], [2], agent="critic")
    done = run(build.build(), upto="transitions", select={"agents": ["writer"]})
    assert [each.agent for each in trajectory(done).transitions] == ["writer"]
    assert dropped(done, "transitions") == {"agent 'critic' is not trained": 1}


def test_incomplete_calls_are_left_out_with_the_reason() -> None:
    build = EpisodeBuilder()
    build.call([1], [2], incomplete="the client left")
    build.call([1], [])
    build.span(CHAT, source=SpanSource.GATEWAY)
    done = run(build.build(), upto="transitions")
    assert trajectory(done).transitions == ()
    assert dropped(done, "transitions") == {
        f"{INCOMPLETE}the client left": 1,
        f"{INCOMPLETE}the answer has no tokens": 1,
        f"{INCOMPLETE}no tokens were recorded": 1,
    }


def test_failed_calls_are_no_transitions() -> None:
    build = EpisodeBuilder()
    build.call([1], [2], status=SpanStatus.ERROR)
    done = run(build.build(), upto="transitions")
    assert (trajectory(done).transitions, dropped(done, "transitions")) == ((), {})


def test_each_choice_of_a_call_is_a_transition() -> None:
    build = EpisodeBuilder()
    first, second = EpisodeBuilder(), EpisodeBuilder()
    first.call([1], [2])
    second.call([1], [3])
    build.span(
        CHAT,
        attributes={semconv.OUTPUT_MESSAGES: ["two", "three"]},
        tokens=(*first.build().spans[0].tokens, *second.build().spans[0].tokens),
    )
    found = trajectory(run(build.build(), upto="transitions")).transitions
    assert [(each.id[-2:], each.action) for each in found] == [(":0", "two"), (":1", "three")]


# credit, group, forest


def test_each_decision_is_given_the_outcome() -> None:
    build = EpisodeBuilder()
    build.call([1], [2])
    build.call([1, 2], [3])
    build.reward(0.75)
    assert [each.credit for each in trajectory(run(build.build())).transitions] == [0.75, 0.75]


def test_without_an_outcome_there_is_nothing_to_spread() -> None:
    build = EpisodeBuilder()
    build.reward(1.0, target=build.call([1], [2]))
    done = run(build.build())
    assert (done.trajectories, dropped(done, "credit")) == (
        (),
        {"no outcome, which credit mode 'outcome' spreads": 1},
    )


def test_an_unknown_credit_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no mode 'discunted'; did you mean 'discounted'"):
        run(upto="credit", credit={"mode": "discunted"})


def test_trajectories_are_grouped_by_task_in_order_of_sample() -> None:
    shape = [("a1", "A", 1), ("b0", "B", 0), ("a0", "A", 0), ("lone", None, 0)]
    builders = [EpisodeBuilder(rollout_id=name, group=group, sample=sample) for name, group, sample in shape]
    for builder in builders:
        builder.reward(1.0)
    groups = run(*(builder.build() for builder in builders)).groups
    assert [(group.key, [each.rollout.id for each in group.trajectories]) for group in groups] == [
        ("A", ["a0", "a1"]),
        ("B", ["b0"]),
        ("lone", ["lone"]),
    ]


def test_spans_become_a_forest_with_a_tree_per_group() -> None:
    builders = [
        EpisodeBuilder(rollout_id=f"{group}{n}", group=group, sample=n) for group in "AB" for n in range(2)
    ]
    for builder in builders:
        builder.call([1, 2], [3, 4])
        builder.call([1, 2, 3, 4, 5], [6])
        builder.reward(1.0)
    done = run(*(builder.build() for builder in builders))
    assert done.forest is not None
    assert [(tree.group, len(tree)) for tree in done.forest.trees] == [("A", 2 + 2 * 4), ("B", 2 + 2 * 4)]
    assert done.forest.tokens_in == 4 * (4 + 6)
    assert done.reports[-1].after["tokens"] == 20


def test_the_pipeline_gives_the_same_bit_for_bit() -> None:
    build = EpisodeBuilder()
    build.call([1, 2], [3, 4])
    build.reward(1.0)
    assert run(build.build()) == run(build.build())
