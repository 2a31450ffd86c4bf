from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, Json, TokenRecord

if TYPE_CHECKING:
    from core.tests.pipeline.conftest import Run

CHAT = semconv.OPERATION_CHAT
TOOLS: Json = [{"type": "function", "function": {"name": "search"}}]


def user(text: str) -> dict[str, Json]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Json]:
    return {"role": "assistant", "content": text}


def ask(
    build: EpisodeBuilder,
    prompt: list[dict[str, Json]],
    answer: dict[str, Json],
    *,
    agent: str = "",
    tools: Json = None,
) -> str:
    attributes: dict[str, Json] = {semconv.INPUT_MESSAGES: prompt, semconv.OUTPUT_MESSAGES: [answer]}
    if tools is not None:
        attributes[semconv.TOOL_DEFINITIONS] = tools
    record = TokenRecord.pack([1], [2], [-0.5], version=0)
    return build.span(CHAT, agent=agent or None, attributes=attributes, tokens=(record,))


def answering(
    sample: int, answer: str, outcome: float, *, group: str = "g", tools: Json = None
) -> EpisodeBuilder:
    build = EpisodeBuilder(rollout_id=f"{group}{sample}", group=group, sample=sample)
    ask(build, [user("q")], said(answer), tools=tools)
    build.reward(outcome)
    return build


def dropped(done: Experience, stage: str) -> dict[str, int]:
    return next(report.dropped for report in done.reports if report.stage == stage)


def test_calls_that_go_on_are_one_conversation_with_each_answer_marked(run: Run) -> None:
    build = EpisodeBuilder(group="g")
    first, second = said("calling"), said("it is 4")
    ask(build, [user("q")], first, agent="a", tools=TOOLS)
    ask(build, [user("other")], said("aside"), agent="b")
    ask(build, [user("q"), first, {"role": "tool", "content": "4"}], second, agent="a", tools=TOOLS)
    build.reward(1.0)
    done = run(build, chat={})
    whole, aside = done.chats
    assert whole.messages == (user("q"), first, {"role": "tool", "content": "4"}, second)
    assert (whole.trained, whole.agent, whole.tools, whole.reward) == ((1, 3), "a", TOOLS, 1.0)
    assert (aside.messages, aside.trained) == ((user("other"), said("aside")), (1,))
    assert (whole.rollout_id, whole.group, whole.id) == (
        "rollout",
        "g",
        done.trajectories[0].transitions[2].id,
    )
    assert done.reports[-1].after["chats"] == 2


def test_another_agent_or_other_tools_do_not_continue_a_conversation(run: Run) -> None:
    build = EpisodeBuilder()
    first = said("x")
    ask(build, [user("q")], first, agent="a")
    ask(build, [user("q"), first, user("more")], said("y"), agent="b")
    ask(build, [user("q"), first, user("more")], said("z"), agent="a", tools=TOOLS)
    build.reward(1.0)
    assert [chat.trained for chat in run(build, chat={}).chats] == [(1,), (3,), (3,)]


def test_only_good_conversations_are_taken_and_each_once(run: Run) -> None:
    builders = [answering(0, "yes", 1.0), answering(1, "yes", 1.0), answering(2, "no", 0.0)]
    done = run(*builders, chat={"least": 0.5})
    assert [chat.rollout_id for chat in done.chats] == ["g0"]
    assert dropped(done, "chat") == {"outcome below 0.5": 1, "said before": 1}
    assert len(done.trajectories) == 3
    assert len(run(*builders, chat={"unique": False}).chats) == 3


def test_decisions_without_messages_are_counted(run: Run) -> None:
    build = EpisodeBuilder()
    build.span(semconv.OPERATION_ACTION, attributes={semconv.ACTION: "left"})
    build.reward(1.0)
    done = run(build, chat={})
    assert (done.chats, dropped(done, "chat")) == ((), {"no messages": 1})


def test_the_best_and_the_worst_answer_to_one_prompt_are_a_pair(run: Run) -> None:
    outcomes = {"good": 1.0, "middle": 0.5, "bad": 0.25}
    builders = [answering(n, text, outcome) for n, (text, outcome) in enumerate(outcomes.items())]
    done = run(*builders, preferences={})
    (pair,) = done.preferences
    assert (pair.chosen, pair.rejected, pair.margin) == (said("good"), said("bad"), 0.75)
    assert (pair.messages, pair.group) == ((user("q"),), "g")
    assert pair.chosen_id == done.trajectories[0].transitions[0].id
    pairs = run(*builders, preferences={"pairs": "all", "margin": 0.5}).preferences
    assert [(one.chosen, one.rejected) for one in pairs] == [
        (said("good"), said("middle")),
        (said("good"), said("bad")),
    ]


@pytest.mark.parametrize(
    "other",
    [
        answering(1, "good", 0.0),  # said the same
        answering(1, "bad", 1.0),  # is as good
        answering(1, "bad", 0.0, group="h"),  # to another task
        answering(1, "bad", 0.0, tools=TOOLS),  # with other tools
    ],
)
def test_what_is_not_the_same_question_or_not_another_answer_is_no_pair(
    other: EpisodeBuilder, run: Run
) -> None:
    done = run(answering(0, "good", 1.0), other, preferences={})
    assert done.preferences == ()
    assert sum(done.reports[-1].remarks.values()) >= 1


def test_answers_are_preferred_by_their_own_credit(run: Run) -> None:
    builders = [answering(n, text, 0.0) for n, text in enumerate(("good", "bad"))]
    builders[0].reward(1.0, target=f"{1:016x}")
    (pair,) = run(*builders, credit={"mode": "per_step"}, preferences={}).preferences
    assert (pair.chosen, pair.margin) == (said("good"), 1.0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from([0.0, 0.5, 1.0])), max_size=6))
def test_every_pair_is_in_order_and_of_one_question(given: list[tuple[str, float]], run: Run) -> None:
    builders = [answering(n, text, outcome) for n, (text, outcome) in enumerate(given)]
    done = run(*builders, preferences={"pairs": "all"})
    worth = {one.transitions[0].id: one.outcome or 0.0 for one in done.trajectories}
    expected = sum(a > b and x != y for x, a in given for y, b in given)
    assert len(done.preferences) == expected
    assert all(
        worth[pair.chosen_id] - worth[pair.rejected_id] == pair.margin > 0 for pair in done.preferences
    )
    assert bool(run(*builders, preferences={}).preferences) == bool(expected)
