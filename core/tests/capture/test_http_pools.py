"""Which connections the rollouts under way share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from agentlightning.capture import RolloutContext, in_rollout
from agentlightning.capture.http import MOST_POOLS, ROLLOUTS_EACH, Pools

Make = Callable[..., RolloutContext]


class Connections:
    """Stands for an HTTP client, sync and async."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


Own = Pools[Connections, Connections]


def of(pools: Own, rollout: RolloutContext) -> Connections:
    with in_rollout(rollout):
        return pools.of_threads()


def test_a_few_rollouts_share_connections_however_many_there_are(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    rollouts = [make_rollout() for _ in range(5 * ROLLOUTS_EACH)]
    shared = Counter(of(pools, rollout) for rollout in rollouts)
    assert list(shared.values()) == [ROLLOUTS_EACH] * 5


def test_a_rollout_keeps_its_connections(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    rollouts = [make_rollout() for _ in range(2 * ROLLOUTS_EACH)]
    first = [of(pools, rollout) for rollout in rollouts]
    del rollouts[0]  # there would be room in front
    assert [of(pools, rollout) for rollout in rollouts] == first[1:]


def test_connections_of_rollouts_that_are_gone_are_used_again(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    assert len({of(pools, make_rollout()) for _ in range(5 * ROLLOUTS_EACH)}) == 1


def test_beyond_the_most_pools_the_least_crowded_is_used(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    rollouts = [make_rollout() for _ in range(MOST_POOLS * (ROLLOUTS_EACH + 1))]
    shared = Counter(of(pools, rollout) for rollout in rollouts)
    assert list(shared.values()) == [ROLLOUTS_EACH + 1] * MOST_POOLS


def test_an_event_loop_closes_all_of_its_connections_when_it_ends(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    rollouts = [make_rollout() for _ in range(2 * ROLLOUTS_EACH)]

    async def open_all() -> set[Connections]:
        found = set()
        for rollout in rollouts:
            with in_rollout(rollout):
                found.add(pools.of_loop())
        assert not any(one.closed for one in found)
        return found

    first, second = asyncio.run(open_all()), asyncio.run(open_all())
    assert len(first) == len(second) == 2
    assert not first & second
    assert all(one.closed for one in first | second)


def test_closing_lets_go_of_the_connections_of_threads(make_rollout: Make) -> None:
    pools = Own(Connections, Connections)
    rollouts = [make_rollout() for _ in range(2 * ROLLOUTS_EACH)]
    before = {of(pools, rollout) for rollout in rollouts}
    pools.close()
    assert [one.closed for one in before] == [True, True]
    assert not of(pools, rollouts[0]).closed
