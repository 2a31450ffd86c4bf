"""Rollouts as they are played, of which it is known what the forest has to be: size, mismatches, columns."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.pipeline import merge_calls
from agentlightning.types import TokenForest, TokenRecord, TokenTree, Transition

MOVES = ["go on", "branch", "again", "ask another", "rewrite", "truncate", "retokenise", "retemplate"]
"""What an agent does next."""


@dataclass
class Talk:
    """A conversation of one agent: its last prompt and answer."""

    rollout: str
    agent: str
    prompt: list[int]
    answer: list[int] = field(default_factory=list)

    @property
    def whole(self) -> list[int]:
        return self.prompt + self.answer


class Story:
    """Plays moves, and keeps count of what the forest must hold. Tokens all differ, so nothing meets by chance."""

    def __init__(self) -> None:
        self._next = 0
        self.calls: list[tuple[Talk, list[int], list[int]]] = []
        self.size = 0
        self.mismatches: Counter[str] = Counter()

    def fresh(self, count: int) -> list[int]:
        self._next += count
        return list(range(self._next - count, self._next))

    def call(self, talk: Talk, prompt: list[int], *, answer: int, new: int, mismatch: str = "") -> None:
        """One call with so many new tokens of context."""
        talk.prompt, talk.answer = prompt, self.fresh(answer)
        self.calls.append((talk, list(prompt), list(talk.answer)))
        self.size += new + answer
        if mismatch:
            self.mismatches[mismatch] += 1

    def play(self, move: str, talk: Talk, *, length: int) -> None:
        if not talk.answer or (move.startswith("re") and len(talk.answer) < 2):
            move = "go on"
        said = talk.whole
        match move:
            case "go on" | "branch":
                # of a branch the state it began in stays where another call can go on from
                more = self.fresh(length)
                self.call(talk, said + more, answer=length, new=length)
                if move == "branch":
                    self.call(talk, said + self.fresh(length), answer=length, new=length)
            case "again":
                self.call(talk, talk.prompt, answer=length, new=0)
            case "ask another":
                other = Talk(talk.rollout, f"{talk.agent}>{len(self.calls)}", self.fresh(length))
                self.call(other, other.prompt, answer=length, new=length)
                result = list(other.answer)  # comes back as context, and is not trained there
                self.call(talk, said + result, answer=length, new=length)
            case "rewrite":
                self.call(
                    talk,
                    self.fresh(length) + said,
                    answer=length,
                    new=length + len(said),
                    mismatch="rewritten",
                )
            case "truncate":
                prompt = said[:1] + self.fresh(1) + said[3:]
                self.call(talk, prompt, answer=length, new=len(prompt) - 1, mismatch="rewritten")
            case "retokenise":
                kept = talk.prompt + talk.answer[: len(talk.answer) // 2]
                prompt = kept + self.fresh(len(talk.answer) - len(talk.answer) // 2 + length)
                lost = len(talk.answer) - len(talk.answer) // 2
                label = "retokenisation" if lost > 1 else "template"
                self.call(talk, prompt, answer=length, new=len(prompt) - len(kept), mismatch=label)
            case "retemplate":
                kept = said[:-1]
                self.call(
                    talk, kept + self.fresh(1 + length), answer=length, new=1 + length, mismatch="template"
                )

    def forest(self, *, of: Callable[[int], bool] = lambda _: True) -> TokenForest:
        return merge_calls([("g", self.transitions(of=of))])

    def transitions(self, *, of: Callable[[int], bool] = lambda _: True) -> list[Transition]:
        return [
            Transition(
                id=f"t{number}",
                rollout_id=talk.rollout,
                index=number,
                agent=talk.agent,
                tokens=TokenRecord.pack(prompt, answer, [-float(number)] * len(answer), version=number),
            )
            for number, (talk, prompt, answer) in enumerate(self.calls)
            if of(number)
        ]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Two rollouts of one task, each with two agents, in any order of each other."""
    story = Story()
    shared = story.fresh(draw(st.integers(2, 4)))
    story.size += len(shared)
    talks = [Talk(rollout, agent, list(shared)) for rollout in "rs" for agent in "ab"]
    for _ in range(draw(st.integers(1, 14))):
        talk = draw(st.sampled_from(talks))
        story.play(draw(st.sampled_from(MOVES)), talk, length=draw(st.integers(1, 4)))
    return story


def ancestors(tree: TokenTree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


@settings(max_examples=150, deadline=None)
@given(stories())
def test_a_story_has_the_nodes_and_the_mismatches_that_it_must(story: Story) -> None:
    forest = story.forest()
    assert forest.size == story.size
    assert forest.mismatches == story.mismatches
    assert forest.tokens_in == sum(len(prompt) + len(answer) for _, prompt, answer in story.calls)


@settings(max_examples=100, deadline=None)
@given(stories(), st.data())
def test_every_sampled_token_is_trained_once_with_its_own_advantage_and_weight(
    story: Story, data: st.DataObject
) -> None:
    trained = data.draw(st.sets(st.sampled_from(range(len(story.calls)))))
    forest = story.forest().assign(
        advantages={f"t{number}": float(number + 1) for number in trained},
        weights={f"t{number}": 1.0 / (number + 1) for number in trained},
    )
    (tree,) = forest.trees
    seen: Counter[int] = Counter()
    for number, (call, (_, prompt, answer)) in enumerate(zip(tree.calls, story.calls, strict=True)):
        leaf = call.stop - 1
        path = ancestors(tree, leaf)
        assert [tree.token_ids[node] for node in path] == prompt + answer
        own = path[len(prompt) :]
        assert own == list(range(call.start, call.stop))
        assert [tree.logprobs[node] for node in own] == [-float(number)] * len(answer)
        assert [tree.versions[node] for node in own] == [number] * len(answer)
        expected = float(number + 1) if number in trained else 0.0
        assert [tree.advantages[node] for node in own] == [expected] * len(answer)
        weight = 1.0 / (number + 1) if number in trained else 0.0
        assert [tree.weights[node] for node in own] == pytest.approx([weight] * len(answer))
        seen.update(own)
    assert all(count == 1 for count in seen.values())
    assert sum(weight != 0.0 for weight in tree.weights) == sum(
        len(story.calls[number][2]) for number in trained
    )


@settings(max_examples=60, deadline=None)
@given(stories(), st.data())
def test_rollouts_lie_in_the_forest_as_they_do_without_the_others(story: Story, data: st.DataObject) -> None:
    # whatever the other rollout does, and however the calls of both are mixed
    rollout = data.draw(st.sampled_from("rs"))
    alone = story.forest(of=lambda number: story.calls[number][0].rollout == rollout)
    together = story.forest()
    paths = {call.transition_id: together.trees[0].path(call.stop - 1) for call in together.trees[0].calls}
    assert all(
        alone.trees[0].path(call.stop - 1) == paths[call.transition_id] for call in alone.trees[0].calls
    )
    assert all(count <= together.mismatches[label] for label, count in alone.mismatches.items())


def growing(turns: int, *, agents: int = 1, rollouts: int = 1) -> Story:
    story = Story()
    talks = [
        Talk(f"r{number}", f"a{agent}", story.fresh(3))
        for number in range(rollouts)
        for agent in range(agents)
    ]
    for _ in range(turns):
        for talk in talks:
            story.play("go on", talk, length=4)
    return story


def fanned(samples: int) -> Story:
    """Rollouts of one task whose second calls all differ right after the prompt that they share."""
    story = Story()
    shared = story.fresh(3)
    for number in range(samples):
        talk = Talk(f"r{number}", "a", shared)
        story.call(talk, shared, answer=4, new=0)
        other = Talk(f"r{number}", "b", shared)
        story.call(other, shared + story.fresh(2), answer=4, new=2)
    return story


def rewriting(turns: int) -> Story:
    story = Story()
    talk = Talk("r", "a", story.fresh(3))
    for _ in range(turns):
        story.call(talk, story.fresh(6), answer=2, new=6)
    return story


@pytest.mark.parametrize(
    "made",
    [
        growing,
        lambda turns: growing(turns // 4, agents=4),
        lambda turns: growing(8, rollouts=turns // 8),
        fanned,
        rewriting,
    ],
    ids=["one chain", "interleaved agents", "many rollouts", "fan", "rewritten"],
)
def test_twice_the_calls_cost_twice_the_steps(made: Callable[[int], Story]) -> None:
    few, many = (steps(made(count).transitions()) for count in (64, 128))
    assert many <= 2.2 * few


def steps(transitions: list[Transition]) -> int:
    """Calls of functions, of Python's and of C's, while a forest is made."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        merge_calls([("g", transitions)])
    finally:
        sys.setprofile(before)
    return count
