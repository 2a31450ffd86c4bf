"""Decision policies as data, and the features that they score."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.decisions import draw, most_probable, vectors
from agentlightning.plugins import load_plugins
from agentlightning.store import open_store
from agentlightning.types import BUILTIN_KINDS, DecisionPolicy, ResourceRecord, pack_weights


@given(st.dictionaries(st.integers(0, 4095), st.floats(-1e6, 1e6, width=32), max_size=50))
def test_a_policy_is_the_same_after_it_was_a_record(weights: dict[int, float]) -> None:
    policy = DecisionPolicy(version=5, weights=pack_weights(weights), points=("tool",), epsilon=0.1)
    record = msgspec.json.decode(msgspec.json.encode(ResourceRecord.of(policy)), type=ResourceRecord)
    loaded = record.load(BUILTIN_KINDS)
    assert loaded == policy
    assert isinstance(loaded, DecisionPolicy)
    assert {index: value for index, value in enumerate(loaded.table) if value} == {
        index: value for index, value in weights.items() if value
    }


async def test_a_store_keeps_it() -> None:
    policy = DecisionPolicy(version=1, weights=pack_weights({3: 0.5}))
    async with open_store("memory://") as store:
        published = await store.resources.publish({"decisions": policy})
        assert (await store.resources.get(published.id)).resources["decisions"].load(BUILTIN_KINDS) == policy


def test_the_kind_is_registered() -> None:
    assert load_plugins().resources()["decision_policy"].target == "agentlightning.types:DecisionPolicy"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scheme": 2}, "scheme 2 cannot be read"),
        ({"weights": b"123"}, "8 bytes each, got 3 bytes"),
        ({"weights": struct.pack("<If", 4096, 1.0)}, "weight 4096"),
        ({"weights": struct.pack("<If", 1, float("nan"))}, "is nan"),
        ({"epsilon": 1.5}, "epsilon 1.5"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"bits": 30}, "30 bits"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DecisionPolicy(version=1, **fields)  # type: ignore[arg-type]


def test_features_are_the_same_in_every_process() -> None:
    assert vectors("tool", ["search"], context={"kind": "math"}, bits=12) == [[(997, -1.0), (2009, -1.0)]]


def test_features_do_not_depend_on_the_order_of_keys() -> None:
    one = vectors("x", [{"a": 1, "b": "c d"}], context={"k": True, "l": [1, 2.5]}, bits=12)
    other = vectors("x", [{"b": "c d", "a": 1}], context={"l": [1, 2.5], "k": True}, bits=12)
    assert one == other


def test_decisions_options_and_contexts_have_features_of_their_own() -> None:
    rows = {
        tuple(vectors(name, [option], context=context, bits=20)[0])
        for name in ("tool", "branch")
        for option in ("a", "b", 1, 1.5, True, None, {"name": "a"}, ["a"])
        for context in (None, {"kind": "x"}, {"kind": "y"}, {"n": 1}, {"n": 100}, "some words", True, 2)
    }
    assert len(rows) == 2 * 8 * 8


def test_vectors_are_bounded_whatever_they_are_made_of() -> None:
    rows = vectors("x", ["word " * 9000, {str(n): n for n in range(999)}], context=list(range(9999)), bits=12)
    assert all(len(row) <= 17 * 65 for row in rows)
    assert all(sum(value * value for _, value in row) == pytest.approx(2.0) for row in rows)


def test_a_draw_never_takes_what_has_no_chance() -> None:
    assert {draw([0.0, 1.0, 0.0], seed=str(seed)) for seed in range(200)} == {1}
    assert {draw([0.5, 0.5 - 1e-17, 0.0], seed=str(seed)) for seed in range(200)} == {0, 1}


def test_of_equally_probable_options_the_first_is_taken() -> None:
    assert most_probable([0.2, 0.4, 0.4]) == [0.0, 1.0, 0.0]
