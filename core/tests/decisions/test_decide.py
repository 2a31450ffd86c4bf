"""`agl.decide` under a policy: what is chosen, how it is recorded, and that rollouts do not disturb each other."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentlightning as agl
from agentlightning.capture import RolloutContext, in_rollout, install_tracing
from agentlightning.decisions import propensities, vectors
from agentlightning.types import DecisionPolicy, Json, Mode, Resource, Span, pack_weights

TOOLS = ["search", "answer", "calculate"]
EVEN = DecisionPolicy(version=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class Emitted(list[Span]):
    add = list.append


def rollout(
    sink: Emitted, *, seed: int | None = 7, mode: Mode = Mode.TRAIN, name: str = "r", **resources: Resource
) -> RolloutContext:
    install_tracing()
    return RolloutContext(
        rollout_id=name, attempt_id="a", mode=mode, sink=sink, seed=seed, resources=resources
    )


def decided(count: int, *, seed: int | None = 7, policy: DecisionPolicy = EVEN, name: str = "r") -> list[str]:
    with in_rollout(rollout(Emitted(), seed=seed, name=name, policy=policy)):
        return [agl.decide("tool", TOOLS, context={"kind": "math"}) for _ in range(count)]


def preferring(option: Json, *, context: Json = None, by: float = 20.0, **fields: object) -> DecisionPolicy:
    """A policy that scores one option high, and what has nothing in common with it 0."""
    (row,) = vectors("tool", [option], context=context, bits=12)
    weights: dict[int, float] = {}
    for index, value in row:
        weights[index] = weights.get(index, 0.0) + by * value
    return DecisionPolicy(version=3, weights=pack_weights(weights), **fields)  # type: ignore[arg-type]


def test_a_policy_of_the_rollout_decides_and_everything_known_is_recorded() -> None:
    sink = Emitted()
    with in_rollout(rollout(sink, policy=preferring("answer", context={"turn": 1}, epsilon=0.3))):
        chosen = agl.decide("tool", TOOLS, context={"turn": 1})
    (span,) = sink
    shares = span.attributes["agl.decision.propensities"]
    assert isinstance(shares, list)
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=1e-6)
    assert span.attributes["agl.decision.propensity"] == shares[TOOLS.index(chosen)]
    assert span.attributes["agl.decision.index"] == TOOLS.index(chosen)
    assert span.attributes["agl.decision.policy"] == "policy"
    assert span.attributes["agl.policy.version"] == 3
    assert span.attributes["agl.state"] == {"turn": 1}


def test_choices_have_the_frequencies_that_are_logged() -> None:
    counts = Counter(decided(1, seed=seed)[0] for seed in range(3000))
    assert all(counts[tool] == pytest.approx(1000, abs=100) for tool in TOOLS)


def test_the_same_seed_decides_alike_and_each_occurrence_for_itself() -> None:
    assert decided(20) == decided(20)
    assert len(set(decided(20))) == 3
    assert decided(20) != decided(20, seed=8)
    assert decided(20, seed=None, name="x") == decided(20, seed=None, name="x")
    assert decided(20, seed=None, name="x") != decided(20, seed=None, name="y")


async def test_sixteen_rollouts_at_once_decide_as_they_would_alone() -> None:
    async def play(seed: int) -> list[str]:
        with in_rollout(rollout(Emitted(), seed=seed, policy=EVEN)):
            chosen = []
            for _ in range(10):
                await asyncio.sleep(0)
                chosen.append(agl.decide("tool", TOOLS, context={"kind": "math"}))
            return chosen

    together = await asyncio.gather(*(play(seed) for seed in range(16)))
    assert together == [decided(10, seed=seed) for seed in range(16)]


def test_parallel_branches_decide_alike_in_any_order() -> None:
    def branches(order: Sequence[int]) -> dict[int, str]:
        with in_rollout(rollout(Emitted(), policy=EVEN)):
            return {branch: agl.decide("tool", TOOLS, context={"branch": branch}) for branch in order}

    found = branches(range(12))
    assert found == branches(range(11, -1, -1))
    assert set(found.values()) == set(TOOLS)


def test_threads_of_a_rollout_count_occurrences_together() -> None:
    def play() -> str:
        return agl.decide("tool", TOOLS, context={"kind": "math"})

    with in_rollout(rollout(Emitted(), policy=EVEN)), ThreadPoolExecutor(8) as threads:
        found = [threads.submit(copy_context().run, play) for _ in range(40)]
        counts = Counter(one.result() for one in found)
    assert counts == Counter(decided(40))


def test_held_out_rollouts_take_the_most_probable_option_unless_told_otherwise() -> None:
    policy = preferring("calculate", by=1.0, epsilon=0.5)
    sink = Emitted()
    with in_rollout(rollout(sink, mode=Mode.VAL, policy=policy)):
        assert {agl.decide("tool", TOOLS) for _ in range(30)} == {"calculate"}
    assert {span.attributes["agl.decision.propensity"] for span in sink} == {1.0}
    drawing = preferring("calculate", by=1.0, epsilon=0.5, greedy=False)
    with in_rollout(rollout(Emitted(), mode=Mode.VAL, policy=drawing)):
        assert {agl.decide("tool", TOOLS) for _ in range(60)} == set(TOOLS)


def test_every_option_is_explored_with_the_floor() -> None:
    shares = propensities(preferring("answer", epsilon=0.3), "tool", options=TOOLS)
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=1e-6)
    assert min(shares) >= 0.1


def test_options_that_a_policy_has_never_seen_can_be_chosen() -> None:
    shares = propensities(preferring("answer", by=2.0), "tool", options=[*TOOLS, "browse", {"name": "new"}])
    assert shares[1] > shares[3]
    assert shares[3] == pytest.approx(shares[4], rel=0.5)


def test_a_high_temperature_makes_choices_more_even() -> None:
    cold, hot = (
        propensities(preferring("answer", by=2.0, temperature=one), "tool", options=TOOLS)
        for one in (0.5, 5.0)
    )
    assert cold[1] > hot[1] > 1 / 3


def test_a_policy_decides_only_its_points_and_one_that_lists_a_point_comes_first() -> None:
    mine, other = preferring("answer", points=("tool",)), preferring("calculate")
    with in_rollout(rollout(Emitted(), mode=Mode.VAL, mine=mine, other=other)):
        assert agl.decide("tool", TOOLS) == "answer"
    with in_rollout(rollout(Emitted(), mine=mine)):
        assert {agl.decide("branch", TOOLS) for _ in range(20)} == {"search"}


def test_two_policies_that_claim_a_decision_are_an_error_that_names_them() -> None:
    with (
        in_rollout(rollout(Emitted(), one=EVEN, two=EVEN)),
        pytest.raises(ValueError, match=r"'tool' is claimed by the policies \['one', 'two'\]"),
    ):
        agl.decide("tool", TOOLS)


@dataclasses.dataclass
class Tool:
    name: str
    secret: object


def search() -> None:
    """Searches."""


def test_objects_are_known_by_their_names_and_handed_back_as_they_are() -> None:
    sink = Emitted()
    options = [search, Tool(name="answer", secret=object()), {"name": "plain"}, 4, None]
    with in_rollout(rollout(sink, policy=EVEN)):
        chosen = agl.decide("tool", options)
    assert any(chosen is option for option in options)
    assert sink[0].attributes["agl.decision.options"] == ["search", "answer", {"name": "plain"}, 4, None]


@pytest.mark.parametrize("policies", [{}, {"policy": EVEN}])
def test_what_cannot_be_expressed_is_an_error_that_names_the_part(policies: Mapping[str, Resource]) -> None:
    with in_rollout(rollout(Emitted(), **policies)):
        with pytest.raises(TypeError, match=r"options\[1\]\.x is a object"):
            agl.decide("tool", ["search", {"x": object()}])
        with pytest.raises(TypeError, match=r"context\.x is nan"):
            agl.decide("tool", TOOLS, context={"x": float("nan")})


@pytest.mark.parametrize("inside", [False, True])
def test_arguments_of_a_wrong_kind_are_errors_that_name_them(inside: bool) -> None:
    def wrong() -> None:
        with pytest.raises(TypeError, match="name is a int, 4"):
            agl.decide(4, TOOLS)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="name is empty"):
            agl.decide("", TOOLS)
        for options in ("search", {"search"}, {"search": 1}, iter(TOOLS), None):
            with pytest.raises(TypeError, match="options of decide"):
                agl.decide("tool", options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no options"):
            agl.decide("tool", ())

    if inside:
        with in_rollout(rollout(Emitted(), policy=EVEN)):
            wrong()
    else:
        wrong()


def test_outside_of_rollouts_the_first_option_is_taken() -> None:
    assert agl.decide("tool", TOOLS, context=object()) == "search"
    assert agl.decide("tool", range(3)) == 0


@settings(deadline=None, max_examples=150)
@given(
    options=st.lists(json_values, min_size=1, max_size=5),
    context=json_values,
    weights=st.dictionaries(st.integers(0, 15), st.floats(-50, 50, width=32), max_size=16),
    epsilon=st.floats(0, 1),
    temperature=st.floats(0.01, 100),
    greedy=st.booleans(),
)
def test_propensities_are_probabilities_with_a_floor(  # noqa: PLR0917
    options: list[Json],
    context: Json,
    weights: dict[int, float],
    epsilon: float,
    temperature: float,
    greedy: bool,
) -> None:
    policy = DecisionPolicy(
        version=1, weights=pack_weights(weights), bits=4, epsilon=epsilon, temperature=temperature
    )
    shares = propensities(policy, "x", options=options, context=context, greedy=greedy)
    assert sum(shares) == pytest.approx(1.0)
    assert all(share >= (0 if greedy else epsilon / len(options) - 1e-12) for share in shares)
    if greedy:
        assert max(shares) == 1.0


@settings(deadline=None, max_examples=60)
@given(
    options=st.lists(json_values, min_size=1, max_size=4),
    context=json_values,
    seed=st.integers(0, 2**62),
    weights=st.dictionaries(st.integers(0, 15), st.floats(-5, 5, width=32), max_size=16),
)
def test_a_decision_can_be_repeated_and_recomputed_from_its_record(
    options: list[Json], context: Json, seed: int, weights: dict[int, float]
) -> None:
    policy = DecisionPolicy(version=1, weights=pack_weights(weights), bits=4)
    sink = Emitted()
    for _ in range(2):
        with in_rollout(rollout(sink, seed=seed, policy=policy)):
            agl.decide("x", options, context=context)
    known, again = (span.attributes for span in sink)
    assert known == again
    described = known["agl.decision.options"]
    assert isinstance(described, list)
    shares = propensities(policy, "x", options=described, context=known.get("agl.state"))
    assert shares == known["agl.decision.propensities"]
