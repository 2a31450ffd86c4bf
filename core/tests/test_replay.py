from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning._inclusion import inclusion
from agentlightning.pipeline import OutcomeRule
from agentlightning.replay import (
    Candidate,
    Drawn,
    Measure,
    Prioritised,
    Proportional,
    Recent,
    Strategy,
    Stratified,
    Uniform,
    candidates,
    draw,
    replay,
    shares,
)
from agentlightning.store import MemoryStore, Page, RolloutQuery, Store
from agentlightning.testing import ManualClock
from agentlightning.types import (
    Failure,
    FailureClass,
    RewardSource,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    reward_span,
)

STRATEGIES = [
    Uniform(),
    Recent(),
    Recent(window=3),
    Prioritised(by=Measure.REWARD),
    Prioritised(by=Measure.SURPRISE, alpha=1.0, beta=1.0),
    Stratified(),
    Stratified(equal=True),
]
ANY = pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)

POOLS = st.lists(
    st.builds(
        Candidate,
        id=st.text("abcdef", min_size=1, max_size=4),
        group=st.none() | st.sampled_from(["x", "y", "z"]),
        reward=st.none() | st.floats(-1e6, 1e6),
        finished_at=st.floats(0, 10),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


def pool(*rewards: float | None, group: str | None = "g") -> list[Candidate]:
    return [Candidate(id=f"{index:03}", group=group, reward=reward) for index, reward in enumerate(rewards)]


def ids(drawn: list[Drawn]) -> list[str]:
    return [one.candidate.id for one in drawn]


@ANY
@given(pool=POOLS, count=st.integers(0, 15), seed=st.integers(0, 2**32), shuffle=st.randoms())
def test_one_seed_draws_different_candidates_whatever_the_order_of_the_listing(
    strategy: Strategy, pool: list[Candidate], count: int, seed: int, shuffle: random.Random
) -> None:
    drawn = draw(pool, strategy, count=count, seed=seed)
    shuffled = shuffle.sample(pool, len(pool))
    assert draw(shuffled, strategy, count=count, seed=seed) == drawn
    assert len(set(ids(drawn))) == len(drawn)
    assert {one.candidate for one in drawn} <= set(pool) if drawn else True
    drawable = [one for one in pool if one.reward is not None or not isinstance(strategy, Prioritised)]
    most = (
        min(len(drawable), strategy.window)
        if isinstance(strategy, Recent) and strategy.window
        else len(drawable)
    )
    assert len(drawn) == min(count, most)
    assert all(0 < one.probability <= 1 + 1e-9 and 0 < one.weight <= 1 for one in drawn)


@ANY
@given(pool=POOLS, seed=st.integers(0, 99))
def test_the_probabilities_of_all_add_up_to_one(strategy: Strategy, pool: list[Candidate], seed: int) -> None:
    drawn = draw(pool, strategy, count=len(pool), seed=seed)
    if drawn:
        assert math.fsum(one.probability for one in drawn) == pytest.approx(1.0)


PRIORITIES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


def every(strategy: Strategy, found: list[Candidate], *, count: int) -> dict[str, Drawn]:
    """Each candidate as it is when it is drawn."""
    drawn = {
        one.candidate.id: one
        for seed in range(2_000)
        for one in draw(found, strategy, count=count, seed=seed)
    }
    assert len(drawn) == len(found)
    return drawn


@given(
    pool=POOLS,
    beta=st.floats(0, 1),
    alpha=st.floats(0, 2),
    by=st.sampled_from(Measure),
    drawn_by=st.tuples(st.integers(1, 12), st.integers(0, 9)),
)
def test_weights_undo_the_probabilities_as_far_as_beta_says(
    pool: list[Candidate], beta: float, alpha: float, by: Measure, drawn_by: tuple[int, int]
) -> None:
    count, seed = drawn_by
    drawn = draw(pool, Prioritised(by=by, alpha=alpha, beta=beta), count=count, seed=seed)
    for one, other in pairwise(drawn):
        assert one.weight / other.weight == pytest.approx((other.probability / one.probability) ** beta)


@given(priorities=PRIORITIES, alpha=st.floats(0, 2), count=st.integers(1, 9))
def test_chances_are_those_of_equation_one_as_far_as_none_is_above_one(
    priorities: list[float], alpha: float, count: int
) -> None:
    count = min(count, len(priorities))
    found = [math.exp(one) for one in inclusion([alpha * math.log(one) for one in priorities], count)]
    assert math.fsum(found) == pytest.approx(count)
    assert max(found) <= 1.0
    shares_ = [one**alpha for one in priorities]
    uncertain = [index for index, one in enumerate(found) if one < 1.0 - 1e-9]
    for index in uncertain:
        expected = shares_[index] / shares_[uncertain[0]]
        assert found[index] / found[uncertain[0]] == pytest.approx(expected)
    if len(uncertain) == len(found):
        total = math.fsum(shares_)
        assert found == pytest.approx([count * one / total for one in shares_])


@given(priorities=PRIORITIES, count=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_exponent_zero_is_uniform(priorities: list[float], count: int, seed: int) -> None:
    found = pool(*priorities)
    named = {one.id: priority for one, priority in zip(found, priorities, strict=True)}
    drawn = draw(found, Proportional(priorities=named, alpha=0.0, beta=1.0), count=count, seed=seed)
    assert [one.probability for one in drawn] == pytest.approx([1 / len(found)] * len(drawn))
    assert [one.weight for one in drawn] == pytest.approx([1.0] * len(drawn))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_with_beta_one_the_weighted_mean_estimates_the_plain_mean(count: int, alpha: float) -> None:
    values = [0.0, 0.1, 0.5, 1.0, 4.0]
    found = pool(*values)
    strategy = Prioritised(by=Measure.REWARD, alpha=alpha, beta=1.0, epsilon=0.1)
    largest = max(one.weight for one in every(strategy, found, count=count).values())
    assert largest == pytest.approx(1.0)
    # the largest weight of all is that of the rarest one, so that the estimate is a multiple of the mean
    chances = [one.probability * count for one in every(strategy, found, count=count).values()]
    multiple = len(found) * min(chances) / count
    estimates = [
        math.fsum(
            one.weight * (one.candidate.reward or 0.0)
            for one in draw(found, strategy, count=count, seed=seed)
        )
        / count
        for seed in range(4_000)
    ]
    margin = 4 * stdev(estimates) / math.sqrt(len(estimates))
    assert fmean(estimates) == pytest.approx(multiple * fmean(values), abs=margin + 1e-12)


def test_priorities_are_equation_one_of_the_paper() -> None:
    found = pool(0.0, 1.0, 3.0)
    drawn = every(Prioritised(by=Measure.REWARD, alpha=2.0, epsilon=1.0), found, count=1)
    assert [drawn[one.id].probability for one in found] == pytest.approx([1 / 21, 4 / 21, 16 / 21])


def test_surprise_is_the_distance_from_the_mean_of_the_group() -> None:
    found = [
        *pool(0.0, 0.0, 3.0, group="a"),
        Candidate(id="b", group="b", reward=9.0),
        Candidate(id="c", reward=9.0),
    ]
    strategy = Prioritised(by=Measure.SURPRISE, alpha=1.0, epsilon=0.5)
    drawn = {name: one.probability for name, one in every(strategy, found, count=1).items()}
    total = 1.5 + 1.5 + 2.5 + 0.5 + 0.5
    assert drawn == pytest.approx(
        {"000": 1.5 / total, "001": 1.5 / total, "002": 2.5 / total, "b": 0.5 / total, "c": 0.5 / total}
    )


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Uniform(), [0.25, 0.25, 0.25, 0.25]),
        (Recent(window=2), [0.0, 0.0, 0.5, 0.5]),
        (Prioritised(by=Measure.REWARD, alpha=1.0, epsilon=1.0), [0.1, 0.2, 0.3, 0.4]),
        (Stratified(equal=True), [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
    ],
    ids=repr,
)
def test_candidates_are_drawn_as_often_as_their_probability_says(
    strategy: Strategy, expected: list[float]
) -> None:
    found = [
        Candidate(
            id=str(index), group="last" if index == 3 else "first", reward=float(index), finished_at=index
        )
        for index in range(4)
    ]
    draws = 6_000
    counts = Counter(ids(draw(found, strategy, count=1, seed=seed))[0] for seed in range(draws))
    for index, share in enumerate(expected):
        # four standard deviations of a binomial: seeds are fixed, so it passes always or never
        margin = 4 * math.sqrt(share * (1 - share) / draws)
        assert counts[str(index)] / draws == pytest.approx(share, abs=margin)


def test_several_draws_pick_each_as_often_as_its_chance_says() -> None:
    priorities = {"000": 1.0, "001": 2.0, "002": 3.0, "003": 10.0}
    strategy = Proportional(priorities=priorities, alpha=1.0)
    draws = 6_000
    counts = Counter(
        name for seed in range(draws) for name in ids(draw(pool(*[0.0] * 4), strategy, count=2, seed=seed))
    )
    # the last one would be drawn 20/16 times of 2, so it always is, and the others share what is left
    for name, chance in {"000": 1 / 6, "001": 2 / 6, "002": 3 / 6, "003": 1.0}.items():
        assert counts[name] / draws == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / draws))


def test_priorities_that_are_none_are_refused() -> None:
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"above 0, got \{'a'"):
            Proportional(priorities={"a": wrong})
    known = Proportional(priorities={"000": 1.0})
    assert ids(draw(pool(1.0, 2.0), known, count=2, seed=0)) == ["000"]


def test_the_newest_come_first() -> None:
    found = [
        Candidate(id=name, finished_at=at) for name, at in (("a", 1.0), ("c", 2.0), ("b", 2.0), ("d", 0.0))
    ]
    assert ids(draw(found, Recent(), count=3, seed=0)) == ["c", "b", "a"]


SIZES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 50), max_size=8)


@given(sizes=SIZES, count=st.integers(0, 300))
def test_every_stratum_gets_its_share(sizes: dict[str, int], count: int) -> None:
    found = shares(sizes, count)
    total = sum(sizes.values())
    assert sum(found.values()) == min(count, total)
    for key, size in sizes.items():
        quota = min(count, total) * size / total if total else 0
        assert math.floor(quota) <= found[key] <= min(size, math.ceil(quota))


@given(sizes=SIZES, count=st.integers(0, 300))
def test_equal_shares_differ_by_one_at_most_where_there_is_enough(sizes: dict[str, int], count: int) -> None:
    found = shares(sizes, count, equal=True)
    assert sum(found.values()) == min(count, sum(sizes.values()))
    assert all(found[key] <= size for key, size in sizes.items())
    highest = max(found.values(), default=0)
    assert all(found[key] >= min(sizes[key], highest - 1) for key in sizes)


def test_the_largest_remainders_win() -> None:
    assert shares({"a": 50, "b": 30, "c": 20}, 7) == {"a": 4, "b": 2, "c": 1}  # 3.5, 2.1, 1.4
    assert shares({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}
    assert shares({"a": 1, "b": 9, "c": 9}, 9, equal=True) == {"a": 1, "b": 4, "c": 4}


@pytest.mark.parametrize(
    "fields", [{"alpha": -1.0}, {"beta": math.nan}, {"epsilon": 0.0}, {"alpha": math.inf}], ids=repr
)
def test_exponents_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Prioritised(**fields)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        Recent(window=0)
    with pytest.raises(ValueError, match="count"):
        draw([], Uniform(), count=-1, seed=0)
    with pytest.raises(ValueError, match="two candidates have the id 'a'"):
        draw([Candidate(id="a"), Candidate(id="a")], Uniform(), count=1, seed=0)


async def past(store: Store, clock: ManualClock) -> None:
    """Rollouts `r0` to `r4` of two groups with rewards 0 to 4, one that failed without, one that is queued."""
    for number in range(6):
        await store.rollouts.enqueue([RolloutRequest(task=number, id=f"r{number}", group=f"g{number % 2}")])
        (lease,) = await store.rollouts.lease("worker")
        attempt = lease.attempt
        if number == 5:
            broken = Failure(kind=FailureClass.AGENT_ERROR, message="broke")
            await store.rollouts.finish(attempt.id, token=attempt.token, failure=broken)
            continue
        for place, (value, dimension, target) in enumerate(
            [(float(number), "right", None), (2.0, "brief", None), (99.0, "right", "0" * 16)]
        ):
            reward = reward_span(
                rollout_id=lease.rollout.id,
                attempt_id=attempt.id,
                span_id=f"{place + 1:016x}",
                trace_id="1" * 32,
                time_ns=1,
                value=value,
                dimension=dimension,
                target=target,
                source=RewardSource.GRADER,
            )
            await store.spans.append([reward])
        clock.advance(1.0)
        await store.rollouts.finish(attempt.id, token=attempt.token)
    await store.rollouts.enqueue([RolloutRequest(task=6, id="r6")])


async def test_candidates_are_what_is_over_with_their_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.replay._PAGE", 2)
    clock = ManualClock()
    async with MemoryStore(clock=clock) as store:
        await past(store, clock)
        rule = OutcomeRule(weights={"right": 1.0})
        found = await candidates(store, outcome=rule)
        assert [(one.id, one.reward, one.group) for one in found] == [
            (f"r{number}", None if number == 5 else float(number), f"g{number % 2}") for number in range(6)
        ]
        assert [one.reward for one in await candidates(store)][:3] == [
            1.0,
            1.5,
            2.0,
        ]  # the mean of both dimensions
        succeeded = RolloutQuery(statuses=(RolloutStatus.SUCCEEDED,), group="g1")
        assert [one.id for one in await candidates(store, succeeded)] == ["r1", "r3"]


async def test_replay_gives_whole_rollouts_in_the_order_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.replay._PAGE", 2)
    clock = ManualClock()
    async with MemoryStore(clock=clock) as store:
        await past(store, clock)
        newest = await replay(store, RolloutQuery(group="g0"), strategy=Recent(), count=2, seed=0)
        assert [(one.id, one.task) for one in newest] == [("r4", 4), ("r2", 2)]
        strategy = Prioritised(by=Measure.REWARD)
        first = await replay(store, strategy=strategy, count=3, seed=5)
        assert first == await replay(store, strategy=strategy, count=3, seed=5)
        drawn = draw(await candidates(store), strategy, count=3, seed=5)
        assert [one.id for one in first] == ids(drawn)
        assert await replay(store, strategy=Uniform(), count=0, seed=0) == []


async def test_a_store_with_short_pages_replays_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with MemoryStore(clock=clock) as store:
        await past(store, clock)
        listed = store.rollouts.list

        async def short(query: RolloutQuery, *, limit: int = 1, cursor: str | None = None) -> Page[Rollout]:
            return await listed(query, limit=1, cursor=cursor)

        monkeypatch.setattr(store.rollouts, "list", short)
        found = await replay(store, strategy=Recent(), count=9, seed=0)
        assert [one.id for one in found] == ["r5", "r4", "r3", "r2", "r1", "r0"]
