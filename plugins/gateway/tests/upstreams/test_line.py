from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.upstreams._line import Line, Waiter

STEPS = st.lists(st.sampled_from(["a", "b", "c", "pop", "leave"]), max_size=60)


@settings(deadline=None, derandomize=True)
@given(steps=STEPS, picks=st.randoms(use_true_random=False))
async def test_each_key_is_in_order_and_keys_take_turns(steps: list[str], picks: object) -> None:
    line: Line[int] = Line()
    waiting: dict[bytes, list[Waiter[int]]] = defaultdict(list)
    passed: dict[bytes, int] = {}  # how often each waiting key was passed over since its last turn
    for step in steps:
        everybody = [waiter for waiters in waiting.values() for waiter in waiters]
        if step == "pop" and everybody:
            waiter = line.pop()
            assert waiting[waiter.key][0] is waiter
            waiting[waiter.key].pop(0)
            passed[waiter.key] = 0
            for key, waiters in waiting.items():
                if waiters and key != waiter.key:
                    passed[key] += 1
                    assert passed[key] <= 2  # there are three keys
        elif step == "leave" and everybody:
            waiter = picks.choice(everybody)  # type: ignore[attr-defined]
            line.leave(waiter)
            line.leave(waiter)
            waiting[waiter.key].remove(waiter)
        elif step not in ("pop", "leave"):
            key = step.encode()
            if not waiting[key]:
                passed[key] = 0
            waiting[key].append(line.join(key, avoid=set()))
        assert len(line) == sum(map(len, waiting.values()))
