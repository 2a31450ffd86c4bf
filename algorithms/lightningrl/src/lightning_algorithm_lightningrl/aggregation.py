"""How token losses add up: the weight of each token, decided once for the whole batch.

The loss is a plain sum of weight times token loss, so it is the same however tokens are spread over micro-batches,
packs, rows and devices. Denominators count what was sampled, before anything is masked: leaving a call out never makes
another one weigh more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec


class Aggregation(StrEnum):
    """What counts the same. `n` are the sampled tokens of a call, a rollout or the batch.

    - `token_mean`: each token: 1 / n_batch (DAPO, arXiv 2503.14476, section 3.3).
    - `sequence_mean`: each call: 1 / (n_call calls) (GRPO, arXiv 2402.03300; a call is a sequence there).
    - `sequence_sum_norm`: each token, however many are sampled: 1 / (rollouts length), with a constant length
      (Dr. GRPO, arXiv 2503.20783; a rollout is a sequence there).
    - `rollout_mean`: each rollout: 1 / (n_rollout rollouts), however many calls and agents it is spread over.
    """

    TOKEN_MEAN = "token_mean"  # noqa: S105  # no password
    SEQUENCE_MEAN = "sequence_mean"
    SEQUENCE_SUM_NORM = "sequence_sum_norm"
    ROLLOUT_MEAN = "rollout_mean"


class SequenceSumNorm(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="name",
    tag="sequence_sum_norm",
    forbid_unknown_fields=True,
):
    """`sequence_sum_norm` with its constant: the most tokens that a rollout may sample is usual."""

    length: Annotated[int, msgspec.Meta(ge=1)]


def token_weights(
    calls: Sequence[Sequence[int]], *, aggregation: Aggregation | SequenceSumNorm
) -> list[list[float]]:
    """Weight of each token of each call.

    Args:
        calls: Sampled tokens of each call, by rollout, for the whole batch: rollouts without a call included.
        aggregation: What counts the same; `sequence_sum_norm` with its length.

    Returns:
        Weights in the shape of `calls`; 0 for calls without tokens.

    Raises:
        ValueError: `sequence_sum_norm` has no length.
    """
    batch = sum(map(sum, calls))
    count = sum(tokens > 0 for rollout in calls for tokens in rollout)
    found: list[list[float]] = []
    for rollout in calls:
        own = sum(rollout)
        match aggregation:
            case SequenceSumNorm(length=length):
                parts = [len(calls) * length] * len(rollout)
            case Aggregation.TOKEN_MEAN:
                parts = [batch] * len(rollout)
            case Aggregation.SEQUENCE_MEAN:
                parts = [tokens * count for tokens in rollout]
            case Aggregation.ROLLOUT_MEAN:
                parts = [own * len(calls)] * len(rollout)
            case _:
                raise ValueError(f"aggregation {aggregation!r} needs its length")
        found.append([1.0 / part if tokens else 0.0 for part, tokens in zip(parts, rollout, strict=True)])
    return found
