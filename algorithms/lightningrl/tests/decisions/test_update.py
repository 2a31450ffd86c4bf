"""The gradient against finite differences, the linear models against closed forms."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.decisions import Vector, mixed, softmax
from lightning_algorithm_lightningrl.decisions._linear import dot, follow, ridge
from lightning_algorithm_lightningrl.decisions._update import Adam, Choice, Objective, ascend

SIZE = 6
numbers = st.floats(-2, 2, width=16)
rows = st.lists(st.lists(numbers, min_size=SIZE, max_size=SIZE), min_size=2, max_size=4)


def vector(values: list[float]) -> Vector:
    return list(enumerate(values))


def worth(weights: dict[int, float], choice: Choice, objective: Objective, *, factor: float) -> float:
    """What the gradient is the gradient of, with the importance weight held at `factor`."""
    shares = softmax([dot(weights, row) for row in choice.rows], temperature=objective.temperature)
    chosen = mixed(shares, epsilon=objective.epsilon)[choice.index]
    entropy = -sum(share * math.log(share) for share in shares)
    return factor * choice.advantage * math.log(chosen) + objective.entropy * entropy


@settings(deadline=None, max_examples=100)
@given(
    options=rows,
    weights=st.lists(numbers, min_size=SIZE, max_size=SIZE),
    advantage=st.floats(-3, 3),
    epsilon=st.sampled_from([0.0, 0.1, 0.5]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    entropy=st.sampled_from([0.0, 0.3]),
    cap=st.sampled_from([0.5, 100.0]),
)
def test_the_gradient_is_that_of_the_objective(  # noqa: PLR0917
    options: list[list[float]],
    weights: list[float],
    advantage: float,
    epsilon: float,
    temperature: float,
    entropy: float,
    cap: float,
) -> None:
    objective = Objective(epsilon=epsilon, temperature=temperature, weight_cap=cap, entropy=entropy)
    choice = Choice(rows=[vector(one) for one in options], index=1, propensity=0.4, advantage=advantage)
    at = dict(enumerate(weights))
    done = ascend([choice], weights=at, objective=objective, scale=1.0)
    factor = min(done.weight, cap)
    for index in range(SIZE):
        ends = [
            worth({**at, index: at[index] + shift}, choice, objective, factor=factor)
            for shift in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        assert done.gradient.get(index, 0.0) == pytest.approx(slope, abs=1e-4, rel=1e-4)


def test_importance_weights_are_cut_and_counted() -> None:
    objective = Objective(epsilon=0.0, temperature=1.0, weight_cap=2.0, entropy=0.0)
    row = [[(0, 1.0)], [(1, 1.0)]]
    rare = Choice(rows=row, index=0, propensity=0.01, advantage=1.0)
    usual = msgspec.structs.replace(rare, propensity=0.25)
    cut, whole = (ascend([one], weights={}, objective=objective, scale=1.0) for one in (rare, usual))
    assert cut.gradient == whole.gradient == {0: 1.0, 1: -1.0}
    assert (cut.cut, whole.cut, cut.largest) == (1, 0, 50.0)


def test_the_expected_gradient_corrects_for_who_decided() -> None:
    """Over the logging policy's own choices, importance weights give the gradient of the policy itself."""
    objective = Objective(epsilon=0.1, temperature=1.0, weight_cap=1e9, entropy=0.0)
    generator = random.Random(0)
    options = [[(index, generator.gauss(0, 1)) for index in range(SIZE)] for _ in range(3)]
    weights = {index: generator.gauss(0, 1) for index in range(SIZE)}
    rewards, logging = [1.0, -0.5, 0.3], [0.7, 0.2, 0.1]
    shares = mixed(softmax([dot(weights, row) for row in options]), epsilon=0.1)

    def expected(propensities: list[float]) -> dict[int, float]:
        total: dict[int, float] = {}
        for index, propensity in enumerate(propensities):
            choice = Choice(rows=options, index=index, propensity=propensity, advantage=rewards[index])
            own = ascend([choice], weights=weights, objective=objective, scale=propensity).gradient
            total = {key: total.get(key, 0.0) + value for key, value in own.items()}
        return total

    assert expected(logging) == pytest.approx(expected(shares))


def test_ridge_is_the_closed_form() -> None:
    generator = random.Random(1)
    xs = [generator.gauss(0, 1) for _ in range(30)]
    ys = [2 * x + generator.gauss(0, 0.1) for x in xs]
    found = ridge([[(3, x)] for x in xs], ys, penalty=0.7, sweeps=200)
    assert found[3] == pytest.approx(
        sum(x * y for x, y in zip(xs, ys, strict=True)) / (sum(x * x for x in xs) + 0.7), abs=1e-5
    )


def test_ridge_takes_an_index_that_is_there_twice_as_its_sum() -> None:
    assert ridge([[(1, 1.0), (1, 1.0)]], [3.0], penalty=0.5, sweeps=50) == pytest.approx({1: 6 / 4.5})


def test_a_prediction_moves_towards_its_value() -> None:
    weights: dict[int, float] = {}
    follow(weights, [(0, 1.0), (1, 2.0)], value=10.0, rate=0.5)
    assert dot(weights, [(0, 1.0), (1, 2.0)]) == pytest.approx(5.0)


def test_adam_leaves_what_has_no_gradient_and_keeps_weights_as_they_are_published() -> None:
    adam = Adam(weights={5: 1.0})
    adam.step({}, learning_rate=0.1)
    assert adam.steps == 0
    adam.step({0: 3.0, 1: -1e-3}, learning_rate=0.1)
    assert adam.weights == pytest.approx({5: 1.0, 0: 0.1, 1: -0.1}, rel=1e-4)
    assert adam.weights[0] != 0.1  # float32
    restored = msgspec.convert(msgspec.to_builtins(adam, str_keys=True), type=Adam, str_keys=True)
    assert restored == adam
