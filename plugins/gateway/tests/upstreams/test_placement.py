from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.upstreams._placement import LIGHT_LOAD, LOAD_FACTOR, load_bound, place

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=9, unique=True)
calm = settings(deadline=None, derandomize=True)
KEYS = [f"rollout-{number}".encode() for number in range(2000)]


def idle(names: list[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@calm
@given(names=NAMES, key=st.binary(), order=st.randoms())
def test_the_order_of_servers_does_not_matter(names: list[str], key: bytes, order: object) -> None:
    shuffled = list(names)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(key, idle(names)) == place(key, idle(shuffled))


@calm
@given(names=NAMES, key=st.binary())
def test_removing_a_server_moves_only_its_own_rollouts(names: list[str], key: bytes) -> None:
    before = place(key, idle(names))
    gone = names[0]
    after = place(key, idle(names[1:]))
    assert before in (after, gone)


@calm
@given(names=NAMES, key=st.binary(), new=st.text(min_size=9, max_size=9))
def test_adding_a_server_moves_rollouts_to_it_alone(names: list[str], key: bytes, new: str) -> None:
    assert place(key, idle([*names, new])) in (place(key, idle(names)), new)


def test_adding_a_server_moves_its_share_and_rollouts_are_spread_evenly() -> None:
    names = [f"http://10.0.0.{number}:8000/v1" for number in range(4)]
    before = [place(key, idle(names)) for key in KEYS]
    after = [place(key, idle([*names, "http://10.0.0.9:8000/v1"])) for key in KEYS]
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert 0.15 < moved / len(KEYS) < 0.25
    assert all(0.2 < count / len(KEYS) < 0.3 for count in Counter(before).values())


@calm
@given(names=NAMES, keys=st.lists(st.sampled_from(KEYS[:3]), max_size=120))
def test_no_server_gets_far_more_than_its_share(names: list[str], keys: list[bytes]) -> None:
    loads = idle(names)
    for total, key in enumerate(keys):
        bound = load_bound(loads)
        assert bound == max(LIGHT_LOAD, -int(-LOAD_FACTOR * (total + 1) // len(names)))
        chosen = place(key, loads)
        assert loads[chosen] < bound
        loads[chosen] += 1


@calm
@given(names=NAMES, key=st.binary(), load=st.integers(0, LIGHT_LOAD - 1))
def test_a_light_load_moves_nothing(names: list[str], key: bytes, load: int) -> None:
    home = place(key, idle(names))
    assert place(key, {**idle(names), home: load}) == home


@calm
@given(names=NAMES, key=st.binary())
def test_an_overloaded_server_is_left_always_for_the_same_one(names: list[str], key: bytes) -> None:
    home = place(key, idle(names))
    second = place(key, {**idle(names), home: 1000})
    assert second != home
    assert second == place(key, {**idle(names), home: 4000})
