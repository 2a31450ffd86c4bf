"""Importance correction: what was sampled by one policy is trained as if another one had sampled it.

The ratio of a token is exp(old - sampler), the learner's log-probability when the update began less the one that the
sampler reported: they differ by the two engines' arithmetic, and by the updates that a call is behind. Neither moves
during an update, so a correction is a factor on the token's weight, and every loss honours it. Factors of several
corrections multiply. Denominators are kept: a token that is rejected is not trained, and no other one weighs more for
it, as in TRL and AReaL; verl takes rejected tokens out of the mean instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are clamped to this, sums over a sequence too, as verl and OpenRLHF do: exp(20) is absurd, but finite."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class Level(StrEnum):
    """What has one ratio: each token, or each call or rollout as a whole: the product over its sampled tokens."""

    TOKEN = "token"  # noqa: S105  # no password
    CALL = "call"
    ROLLOUT = "rollout"


class Truncated(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="tis", forbid_unknown_fields=True
):
    """Truncated importance sampling: min(ratio, cap). Without a cap in reach it is decoupled PPO (arXiv 2505.24298)."""

    cap: Positive = 2.0
    level: Level = Level.TOKEN


class Masked(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="mis", forbid_unknown_fields=True
):
    """Masked importance sampling: the ratio where low <= ratio <= high, else 0."""

    low: NonNegative = 0.0
    high: Positive = 3.0
    level: Level = Level.ROLLOUT


class IcePop(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="icepop", forbid_unknown_fields=True
):
    """IcePop (arXiv 2510.18855): the ratio of each token where low <= ratio <= high, else 0."""

    low: NonNegative = 0.5
    high: Positive = 5.0


class Geometric(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="geometric", forbid_unknown_fields=True
):
    """Geometric rejection: 1 where the mean log-ratio lies in [log low, log high], else 0."""

    low: Positive = 0.99
    high: Positive = 1.01
    level: Level = Level.ROLLOUT


Correction = Truncated | Masked | IcePop | Geometric


def factors(log_ratios: Sequence[Sequence[float]], *, correction: Correction) -> list[list[float]]:
    """Factor on the weight of each token of a rollout.

    Args:
        log_ratios: old - sampler, of the sampled tokens of each call of one rollout.
        correction: Which one.
    """
    level = Level.TOKEN if isinstance(correction, IcePop) else correction.level
    if level is Level.TOKEN:
        return [[_factor([value], correction) for value in call] for call in log_ratios]
    if level is Level.CALL:
        return [[_factor(call, correction)] * len(call) for call in log_ratios]
    whole = _factor([value for call in log_ratios for value in call], correction)
    return [[whole] * len(call) for call in log_ratios]


def combined(
    log_ratios: Sequence[Sequence[float]], *, corrections: Sequence[Correction]
) -> list[list[float]]:
    """The product of the factors of several corrections."""
    found = [[1.0] * len(call) for call in log_ratios]
    for correction in corrections:
        own = factors(log_ratios, correction=correction)
        found = [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(found, own, strict=True)]
    return found


def masks_within(corrections: Sequence[Correction], *, unit: Level) -> Iterator[Correction]:
    """The corrections that may reject a part of a unit and keep the rest of it."""
    order = [Level.TOKEN, Level.CALL, Level.ROLLOUT]
    for correction in corrections:
        level = Level.TOKEN if isinstance(correction, IcePop) else correction.level
        if not isinstance(correction, Truncated) and order.index(level) < order.index(unit):
            yield correction


def _factor(log_ratios: Sequence[float], correction: Correction) -> float:
    if not log_ratios:
        return 1.0
    total = math.fsum(log_ratios)
    ratio = math.exp(max(-LARGEST_LOG_RATIO, min(LARGEST_LOG_RATIO, total)))
    match correction:
        case Truncated(cap=cap):
            return min(ratio, cap)
        case Masked(low=low, high=high) | IcePop(low=low, high=high):
            return ratio if low <= ratio <= high else 0.0
        case Geometric(low=low, high=high):
            return float(math.log(low) <= total / len(log_ratios) <= math.log(high))
