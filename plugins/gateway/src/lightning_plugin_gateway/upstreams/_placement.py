"""Which server a call goes to: the one that its rollout always goes to, unless that has far more to do than others.

Servers keep the prompts of a rollout's earlier turns in their prefix caches, so its calls stay together. The server is
found by rendezvous hashing: each pair of rollout and server has a random weight, and the heaviest wins. Adding one
server to n moves one rollout in n + 1, removing one moves only its own; no state is kept.

Load is bounded as in "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam, 2018): with m calls in
flight at n servers, a server takes no more than `LOAD_FACTOR` times its even share of m + 1 calls, rounded up, and
what is beyond goes to the next by weight. Up to `LIGHT_LOAD` calls are never too many, so that a rollout with a few
parallel calls stays where its prompts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import ceil

LOAD_FACTOR = 1.25
LIGHT_LOAD = 4


def place(key: bytes, loads: Mapping[str, int]) -> str:
    """The server for a key.

    Args:
        key: What its calls have in common, such as a rollout's id.
        loads: Calls in flight by server; at least one.
    """
    if len(loads) == 1:
        return next(iter(loads))
    bound = load_bound(loads)
    return max((weight(key, server), server) for server, load in loads.items() if load < bound)[1]


def load_bound(loads: Mapping[str, int]) -> int:
    """Calls in flight that one server may have after the next call; some server always has fewer."""
    return max(LIGHT_LOAD, ceil(LOAD_FACTOR * (sum(loads.values()) + 1) / len(loads)))


def weight(key: bytes, server: str) -> bytes:
    """The weight of a pair: random, but always the same."""
    return blake2b(key, digest_size=8, key=blake2b(server.encode(), digest_size=16).digest()).digest()
