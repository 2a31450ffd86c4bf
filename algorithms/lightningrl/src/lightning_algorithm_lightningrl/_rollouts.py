"""The calls of a batch as an algorithm sees them: by group and rollout, each with its place in the forest."""

from __future__ import annotations

import math

import msgspec

from agentlightning.errors import ConfigError
from agentlightning.types import Experience, TokenForest, Trajectory, Transition
from lightning_algorithm_lightningrl.correction import LARGEST_LOG_RATIO
from lightning_algorithm_lightningrl.loss_settings import Kl, KlEstimator

TOKEN_BYTES = 4
"""Size of a packed token id."""


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """One LLM call.

    Attributes:
        id: Of its transition.
        agent: Who called.
        turn: Place among the calls of its agent in the rollout, from 0.
        credit: Share of the return it is given.
        value: Return that a critic expected before it; None if there is no critic.
        tokens: Sampled tokens.
        staleness: Policy versions that it is behind; None if its version is unknown, 0 where versions do not matter.
        log_ratios: Old less sampler's log-probability of each sampled token; empty if they are the same.
        divergence: Estimated KL(old || reference) of each sampled token; empty if no kl is taken from the reward.
        values: Return that a value head expected before each sampled token; empty if there is no head.
    """

    id: str
    agent: str
    turn: int
    credit: float
    value: float | None
    tokens: int
    staleness: int | None
    log_ratios: tuple[float, ...] = ()
    divergence: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout.

    Attributes:
        outcome: Its return.
        outcomes: The return by dimension.
        calls: In order.
        graded: What it was judged to be worth as a whole; None if nobody did, or where that is its return.
    """

    outcome: float
    outcomes: dict[str, float]
    calls: tuple[Sampled, ...]
    graded: float | None = None

    @property
    def tokens(self) -> int:
        """Sampled tokens."""
        return sum(call.tokens for call in self.calls)


def played(
    experience: Experience, *, forest: TokenForest, version: int | None, kl_in_reward: Kl | None = None
) -> list[list[Played]]:
    """Every rollout of the batch, `[groups][rollouts]`.

    Args:
        experience: With groups.
        forest: Tokens of their calls.
        version: Policy version that is current; None for experience of whatever policy.
        kl_in_reward: How divergences from the reference are estimated; the forest must have `reference_logprobs`.

    Raises:
        ConfigError: The pipeline has left out a stage that this needs.
    """
    columns = _columns(forest, kl_in_reward)
    return [
        [_played(trajectory, version=version, columns=columns) for trajectory in group.trajectories]
        for group in experience.groups
    ]


Columns = dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]]
"""By transition: log-ratios, divergences and values of its response tokens."""


def _columns(forest: TokenForest, kl: Kl | None) -> Columns:
    found: Columns = {}
    for tree in forest.trees:
        old = tree.old_logprobs or tree.logprobs
        for call in tree.calls:
            nodes = range(call.start, call.stop)
            ratios: tuple[float, ...] = ()
            apart: tuple[float, ...] = ()
            if tree.old_logprobs:
                ratios = tuple(old[node] - tree.logprobs[node] for node in nodes)
            if kl:
                gaps = (old[node] - tree.reference_logprobs[node] for node in nodes)
                apart = tuple(estimate(gap, kl.estimator) for gap in gaps)
            found[call.transition_id] = ratios, apart, tuple(tree.values[call.start : call.stop])
    return found


def estimate(x: float, estimator: KlEstimator) -> float:
    """A token's divergence as a number, for x = policy - reference; see `losses.kl_divergence`."""
    match estimator:
        case KlEstimator.K1 | KlEstimator.K1_STRAIGHT:
            return x
        case KlEstimator.K2:
            return 0.5 * x * x
        case KlEstimator.K3 | KlEstimator.K3_STRAIGHT:
            safe = max(-LARGEST_LOG_RATIO, min(LARGEST_LOG_RATIO, x))
            return math.exp(-safe) + safe - 1.0


def _played(trajectory: Trajectory, *, version: int | None, columns: Columns) -> Played:
    turns: dict[str, int] = {}
    calls = []
    outcome = _return(trajectory)
    for transition in trajectory.transitions:
        if transition.tokens is None:
            continue
        turn = turns[transition.agent] = turns.get(transition.agent, -1) + 1
        found = transition.tokens.version
        ratios, apart, values = columns.get(transition.id, ((), (), ()))
        calls.append(
            Sampled(
                id=transition.id,
                agent=transition.agent,
                turn=turn,
                credit=_credit(transition),
                value=transition.value,
                tokens=len(transition.tokens.response) // TOKEN_BYTES,
                staleness=_staleness(found, version),
                log_ratios=ratios,
                divergence=apart,
                values=values,
            )
        )
    return Played(
        outcome=outcome, outcomes=trajectory.outcomes, calls=tuple(calls), graded=trajectory.outcome
    )


def _staleness(found: int, version: int | None) -> int | None:
    if version is None:
        return 0
    return version - found if found >= 0 else None


def _return(trajectory: Trajectory) -> float:
    """What its credits are shares of: the outcome, or with rewards along the way all that was earned."""
    found = trajectory.outcome if trajectory.episode_return is None else trajectory.episode_return
    if found is None:
        raise ConfigError(
            f"rollout {trajectory.rollout.id} has no outcome; lightningrl's pipeline needs the stage rewards"
        )
    return found


def _credit(call: Transition) -> float:
    if call.credit is None:
        raise ConfigError(f"call {call.id} has no credit; lightningrl's pipeline needs the stage credit")
    return call.credit
