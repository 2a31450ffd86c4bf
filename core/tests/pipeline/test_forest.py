from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.pipeline import build_forest, merge_calls
from agentlightning.types import Call, TokenForest, TokenRecord, TokenTree, Transition, pack_ints


@dataclass(frozen=True)
class Sampled:
    prompt: list[int]
    response: list[int]
    rollout: str = "r"
    agent: str = ""


def forest_of(*groups: list[Sampled]) -> TokenForest:
    return merge_calls(
        (f"g{number}", transitions(group, prefix=f"g{number}")) for number, group in enumerate(groups)
    )


def transitions(calls: list[Sampled], *, prefix: str = "g0") -> list[Transition]:
    return [
        Transition(
            id=f"{prefix}/{index}",
            rollout_id=call.rollout,
            index=index,
            agent=call.agent,
            tokens=TokenRecord.pack(
                call.prompt, call.response, [-(index + 1.0)] * len(call.response), version=index
            ),
        )
        for index, call in enumerate(calls)
    ]


def tree_of(*calls: Sampled) -> TokenTree:
    return forest_of(list(calls)).trees[0]


def read(tree: TokenTree, call: Call) -> tuple[list[int], list[int]]:
    """Prompt and response of a call as the tree has them."""
    last = call.stop - 1 if call.stop > call.start else call.prompt_node
    path = tree.path(last)
    size = call.stop - call.start
    return path[: len(path) - size], path[len(path) - size :]


# few tokens, so that prefixes meet by chance all the time
ids = st.lists(st.integers(0, 2), max_size=6)


@st.composite
def groups_of_calls(draw: st.DrawFn) -> list[Sampled]:
    """Calls of several rollouts and agents; many prompts continue an earlier call of whatever rollout, cut anywhere."""
    calls: list[Sampled] = []
    for _ in range(draw(st.integers(0, 12))):
        prompt = draw(ids)
        if calls and draw(st.booleans()):
            earlier = draw(st.sampled_from(calls))
            path = earlier.prompt + earlier.response
            prompt = path[: draw(st.integers(0, len(path)))] + prompt
        rollout, agent = draw(st.sampled_from("rst")), draw(st.sampled_from(["", "x"]))
        calls.append(Sampled(prompt, draw(ids), rollout, agent))
    return calls


@settings(max_examples=120, deadline=None)
@given(groups_of_calls())
def test_every_call_reads_back_exactly(calls: list[Sampled]) -> None:
    tree = tree_of(*calls)
    assert [read(tree, call) for call in tree.calls] == [(call.prompt, call.response) for call in calls]


@settings(max_examples=120, deadline=None)
@given(groups_of_calls())
def test_every_response_token_is_a_node_of_its_call_alone(calls: list[Sampled]) -> None:
    tree = tree_of(*calls)
    owned = Counter(node for call in tree.calls for node in range(call.start, call.stop))
    assert max(owned.values(), default=1) == 1
    assert sum(owned.values()) == sum(len(call.response) for call in calls)
    for number, call in enumerate(tree.calls):
        assert all(tree.versions[node] == number for node in range(call.start, call.stop))
        assert all(tree.logprobs[node] == -(number + 1.0) for node in range(call.start, call.stop))
    context = set(range(len(tree))) - set(owned)
    assert all(tree.versions[node] == -1 and tree.logprobs[node] == 0.0 for node in context)


@settings(max_examples=120, deadline=None)
@given(groups_of_calls())
def test_the_tree_is_a_tree(calls: list[Sampled]) -> None:
    tree = tree_of(*calls)
    assert len(tree) <= sum(len(call.prompt) + len(call.response) for call in calls)
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert all(
        tree.positions[node] == (tree.positions[parent] + 1 if parent >= 0 else 0)
        for node, parent in enumerate(tree.parents)
    )
    for call in tree.calls:
        chain = [call.prompt_node, *range(call.start, call.stop)]
        assert [tree.parents[node] for node in chain[1:]] == chain[:-1]


@settings(max_examples=120, deadline=None)
@given(groups_of_calls())
def test_a_response_is_continued_by_its_own_rollout_only(calls: list[Sampled]) -> None:
    tree = tree_of(*calls)
    owner = {node: call.rollout_id for call in tree.calls for node in range(call.start, call.stop)}
    for call in tree.calls:
        node = call.prompt_node
        while node >= 0:
            assert owner.get(node, call.rollout_id) == call.rollout_id
            node = tree.parents[node]


def naive_size(calls: list[Sampled]) -> int:
    """Nodes of the same tree, inserted token by token with the longest path found by trying every node."""
    nodes: list[tuple[int, int, str | None]] = []  # parent, token, rollout of a response

    def longest(prompt: list[int], rollout: str) -> tuple[int, int]:
        frontier, best = [-1], (-1, 0)
        for depth, token in enumerate(prompt):
            frontier = [
                node
                for node, (parent, own, owner) in enumerate(nodes)
                if parent in frontier and own == token and owner in {None, rollout}
            ]
            if not frontier:
                break
            best = frontier[0], depth + 1
        return best

    for call in calls:
        node, matched = longest(call.prompt, call.rollout)
        for token in call.prompt[matched:]:
            nodes.append((node, token, None))
            node = len(nodes) - 1
        for token in call.response:
            nodes.append((node, token, call.rollout))
            node = len(nodes) - 1
    return len(nodes)


@settings(max_examples=120, deadline=None)
@given(
    groups_of_calls().filter(
        lambda calls: len({(*call.prompt, -1, *call.response) for call in calls}) == len(calls)
    )
)
def test_the_longest_open_path_is_continued(calls: list[Sampled]) -> None:
    # where two paths read alike either may be continued, so distinct responses keep the count comparable
    distinct = [
        Sampled(call.prompt, [10 + number] * len(call.response), call.rollout, call.agent)
        for number, call in enumerate(calls)
    ]
    assert len(tree_of(*distinct)) == naive_size(distinct)


@settings(max_examples=50, deadline=None)
@given(st.lists(groups_of_calls(), min_size=2, max_size=3))
def test_groups_do_not_touch_each_other(groups: list[list[Sampled]]) -> None:
    together = forest_of(*groups)
    alone = [forest_of(group) for group in groups]
    assert [tree.token_ids for tree in together.trees] == [forest.trees[0].token_ids for forest in alone]
    assert [tree.parents for tree in together.trees] == [forest.trees[0].parents for forest in alone]
    assert sum(together.mismatches.values()) == sum(sum(forest.mismatches.values()) for forest in alone)


@settings(max_examples=50, deadline=None)
@given(groups_of_calls())
def test_the_same_calls_give_the_same_tree_bit_for_bit(calls: list[Sampled]) -> None:
    assert tree_of(*calls) == tree_of(*calls)


@settings(max_examples=50, deadline=None)
@given(groups_of_calls())
def test_assigned_advantages_lie_on_the_responses_and_nowhere_else(calls: list[Sampled]) -> None:
    forest = forest_of(calls)
    chosen = [call for number, call in enumerate(forest.trees[0].calls) if number % 2]
    assigned = forest.assign(
        advantages={call.transition_id: 2.0 for call in chosen},
        weights={call.transition_id: 0.5 for call in chosen},
    ).trees[0]
    trained = {node for call in chosen for node in range(call.start, call.stop)}
    assert all(assigned.weights[node] == (0.5 if node in trained else 0.0) for node in range(len(assigned)))
    assert all(
        assigned.advantages[node] == (2.0 if node in trained else 0.0) for node in range(len(assigned))
    )


def test_a_growing_conversation_is_one_chain() -> None:
    forest = forest_of([Sampled([1], [2]), Sampled([1, 2, 3], [4]), Sampled([1, 2, 3, 4, 5], [6])])
    assert list(forest.trees[0].token_ids) == [1, 2, 3, 4, 5, 6]
    assert list(forest.trees[0].parents) == [-1, 0, 1, 2, 3, 4]
    assert (forest.size, forest.tokens_in, forest.mismatches) == (6, 12, {})


def test_interleaved_agents_each_continue_their_own_conversation() -> None:
    forest = forest_of(
        [
            Sampled([1, 1], [2], agent="a"),
            Sampled([1, 9], [8], agent="b"),
            Sampled([1, 1, 2, 3], [4], agent="a"),
            Sampled([1, 9, 8, 7], [6], agent="b"),
        ]
    )
    assert forest.size == 1 + 4 + 4
    assert forest.mismatches == {}


def test_samples_of_one_prompt_share_it_and_stay_separate_even_if_they_say_the_same() -> None:
    tree = tree_of(*(Sampled([1, 2, 3], [4, 5], rollout) for rollout in "abcd"))
    assert len(tree) == 3 + 4 * 2
    assert [call.prompt_node for call in tree.calls] == [2, 2, 2, 2]


def test_what_follows_the_same_answer_of_two_rollouts_stays_separate() -> None:
    tree = tree_of(*(Sampled(prompt, [4], rollout) for rollout in "ab" for prompt in ([1], [1, 4, 5])))
    assert len(tree) == 1 + 2 * 3


def test_several_choices_of_one_call_can_each_be_continued() -> None:
    forest = forest_of(
        [Sampled([1], [2, 3]), Sampled([1], [2, 4]), Sampled([1, 2, 3, 5], [6]), Sampled([1, 2, 4, 5], [6])]
    )
    assert forest.size == 1 + 4 + 4
    assert forest.mismatches == {}


def test_two_calls_that_said_the_same_offer_the_longer_path() -> None:
    tree = tree_of(
        Sampled([1], [2]), Sampled([1], [2]), Sampled([1, 2, 3, 4], [5]), Sampled([1, 2, 3, 4, 5, 6], [7])
    )
    assert len(tree) == 1 + 1 + 1 + 3 + 2


def test_an_agent_that_said_what_another_said_shares_what_follows() -> None:
    forest = forest_of(
        [
            Sampled([1], [2], agent="a"),
            Sampled([1], [2], agent="b"),
            Sampled([1, 2, 3, 4], [5], agent="b"),
            Sampled([1, 2, 3, 4, 6], [7], agent="a"),
        ]
    )
    assert forest.size == 1 + 2 + 3 + 2
    assert forest.mismatches == {}


def test_a_prompt_within_an_earlier_path_adds_no_context() -> None:
    tree = tree_of(Sampled([1, 2, 3, 4], [5]), Sampled([1, 2], [6]))
    assert list(tree.token_ids) == [1, 2, 3, 4, 5, 6]
    assert tree.parents[5] == 1


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([1, 2, 3, 4, 5, 6, 7], None),
        ([1, 2, 3, 4], None),
        ([1, 2, 3, 4, 5, 9, 7], "template"),
        ([1, 2, 3, 9, 5, 6, 7], "retokenisation"),
        ([1, 2, 3, 4, 9, 6, 7], "retokenisation"),
        ([1, 9, 3, 4, 5, 6, 7], "rewritten"),
        ([9], "rewritten"),
    ],
)
def test_why_a_call_does_not_continue_the_one_before_is_labelled(
    prompt: list[int], reason: str | None
) -> None:
    forest = forest_of([Sampled([1, 2, 3], [4, 5, 6]), Sampled(prompt, [8])])
    assert forest.mismatches == ({reason: 1} if reason else {})


def test_calls_of_other_agents_and_rollouts_are_no_mismatch() -> None:
    forest = forest_of(
        [Sampled([1], [2], "r", "a"), Sampled([3], [4], "r", "b"), Sampled([5], [6], "s", "a")]
    )
    assert forest.mismatches == {}


def test_calls_without_a_prompt_or_an_answer_are_kept() -> None:
    tree = tree_of(Sampled([], [1]), Sampled([], []), Sampled([1, 2], []))
    assert [(call.prompt_node, call.start, call.stop) for call in tree.calls] == [
        (-1, 0, 1),
        (-1, 1, 1),
        (1, 2, 2),
    ]


def test_decisions_without_tokens_are_not_in_the_forest() -> None:
    decision = Transition(id="d", rollout_id="r", index=0, action="left")
    assert merge_calls([("g", [decision])]).size == 0
    assert build_forest([]).trees == ()


def test_two_hundred_turns_of_a_growing_prompt_become_one_chain() -> None:
    rng = random.Random(0)
    path, calls = [rng.randrange(1000) for _ in range(200)], []
    for _ in range(200):
        response = [rng.randrange(1000) for _ in range(60)]
        calls.append(Sampled(list(path), response))
        path += response + [rng.randrange(1000) for _ in range(40)]
    forest = forest_of(calls)
    assert forest.size == 200 + 200 * 100 - 40
    assert list(forest.trees[0].parents) == list(range(-1, forest.size - 1))
    assert forest.tokens_in == sum(len(call.prompt) + 60 for call in calls)


def test_tokens_that_were_sampled_under_several_policies_keep_their_versions() -> None:
    (call,) = transitions([Sampled([1, 2], [5, 6, 7])])
    assert call.tokens
    record = msgspec.structs.replace(call.tokens, versions=pack_ints([3, 3, 4]), version=3)
    (tree,) = merge_calls([("g", [msgspec.structs.replace(call, tokens=record)])]).trees
    assert list(tree.versions) == [-1, -1, 3, 3, 4]
