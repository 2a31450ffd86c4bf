"""What a decision policy says of options, and the draw that follows from a rollout's seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from agentlightning.decisions._features import Vector, vectors
from agentlightning.types import DecisionPolicy, Json


def propensities(
    policy: DecisionPolicy, name: str, *, options: Sequence[Json], context: Json = None, greedy: bool = False
) -> list[float]:
    """Probability of each option under a policy, in order; they sum up to 1.

    Args:
        policy: Which one.
        name: What is decided.
        options: As plain data.
        context: As plain data.
        greedy: Whether the most probable option is certain; of several such, the first.
    """
    found = probabilities(policy, vectors(name, options, context=context, bits=policy.bits))
    return most_probable(found) if greedy else found


def probabilities(policy: DecisionPolicy, rows: Sequence[Vector]) -> list[float]:
    """Probability of each option under a policy, from the options' vectors."""
    table = policy.table
    scores = [sum([table[index] * value for index, value in row]) for row in rows]
    return mixed(softmax(scores, temperature=policy.temperature), epsilon=policy.epsilon)


def softmax(scores: Sequence[float], *, temperature: float = 1.0) -> list[float]:
    """`exp(score / temperature)`, of sum 1."""
    highest = max(scores)
    raised = [math.exp((score - highest) / temperature) for score in scores]
    total = sum(raised)
    return [value / total for value in raised]


def mixed(shares: Sequence[float], *, epsilon: float) -> list[float]:
    """Shares with the exploration floor: `(1 - epsilon) share + epsilon / n`."""
    floor = epsilon / len(shares)
    return [(1.0 - epsilon) * share + floor for share in shares]


def most_probable(shares: Sequence[float]) -> list[float]:
    """1 for the greatest share, the first of several, and 0 for the others."""
    best = max(range(len(shares)), key=lambda index: (shares[index], -index))
    return [float(index == best) for index in range(len(shares))]


def draw(shares: Sequence[float], *, seed: str) -> int:
    """An index with the probability that it has, always the same for one seed."""
    digest = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    place = (int.from_bytes(digest, "little") >> 11) / (1 << 53)
    for index, share in enumerate(shares):
        place -= share
        if place < 0.0 < share:
            return index
    # rounding has left a rest at the end
    return max(index for index, share in enumerate(shares) if share > 0.0)
