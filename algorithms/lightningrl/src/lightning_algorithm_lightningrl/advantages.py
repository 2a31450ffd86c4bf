"""Advantages of decisions, compared over the rollouts of a group, in plain Python.

Credits come as `[rollouts][decisions]`. Each rollout counts once, however many decisions it made: the mean of a group
is the mean over its rollouts of their mean credit, and its deviation is the one of credits with that weight. Where all
decisions of a rollout have the credit of its outcome, both are the plain mean and sample deviation of the outcomes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl.returns import whiten

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

Credits = Sequence[Sequence[float]]
"""`[rollouts][decisions]`; a rollout may have none."""


class Estimator(StrEnum):
    """How a credit `c` becomes an advantage; `r_i` is the mean credit of rollout `i`, the group has `G` of them.

    - `grpo`: (c - mean(r)) / (std + eps), with the sample deviation (arXiv 2402.03300, section 4.1.2).
    - `dr_grpo`: c - mean(r) (arXiv 2503.20783, section 3.2).
    - `rloo`: c - mean of the other rollouts' r (arXiv 2402.14740).
    - `maxrl`: (c - mean(r)) / mean(r); 0 where the mean is 0, refused where it is below (arXiv 2602.02710).
    - `opo`: c - sum(length_i r_i) / sum(length_i), lengths in sampled tokens (arXiv 2505.23585).
    - `reinforce_pp_baseline`: c - mean(r), then whitened over the tokens of the batch (arXiv 2501.03262).
    - `gdpo`: `grpo` for each dimension of the outcome, weighted sum, whitened over rollouts (arXiv 2601.05242).
    - `reinforce`: c, without a baseline.
    - `reinforce_pp`: discounted return at each token, whitened over the tokens of the batch (arXiv 2501.03262).
    - `gae`: of the decisions' values (arXiv 1506.02438), whitened over the tokens of the batch.
    - `token_gae`: of the values of single tokens, by a value head (PPO), whitened likewise.
    - `rae`: c - b of the agent, where b follows the agent's returns slowly (arXiv 2506.24119).
    """

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    RLOO = "rloo"
    MAXRL = "maxrl"
    OPO = "opo"
    REINFORCE_PP_BASELINE = "reinforce_pp_baseline"
    GDPO = "gdpo"
    REINFORCE = "reinforce"
    REINFORCE_PP = "reinforce_pp"
    GAE = "gae"
    TOKEN_GAE = "token_gae"  # noqa: S105  # no password
    RAE = "rae"

    @property
    def needs_group(self) -> bool:
        """Whether it compares the rollouts of a task with each other."""
        return self not in {
            Estimator.REINFORCE,
            Estimator.REINFORCE_PP,
            Estimator.GAE,
            Estimator.TOKEN_GAE,
            Estimator.RAE,
        }

    @property
    def divides(self) -> bool:
        """Whether it divides by a deviation of the group, so that `std_eps` matters."""
        return self in {Estimator.GRPO, Estimator.GDPO}


class Compare(StrEnum):
    """Which decisions of a group are compared with each other.

    - `rollout`: all of them.
    - `agent`: those of the same agent (Dr. MAS, arXiv 2602.08847): each agent has a mean and deviation of its own.
    - `turn`: the first ones of all rollouts, the second ones, and so on. A turn that one rollout alone has reached has
      nothing to be compared with: its advantage is 0.
    """

    ROLLOUT = "rollout"
    AGENT = "agent"
    TURN = "turn"


class Gdpo(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="gdpo", forbid_unknown_fields=True
):
    """Options of `gdpo`: weight by dimension of the outcome; 1 for those that are not named."""

    weights: dict[str, float] = {}


class ReinforcePp(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="name",
    tag="reinforce_pp",
    forbid_unknown_fields=True,
):
    """Options of `reinforce_pp`: discount per sampled token."""

    gamma: Share = 1.0


class Gae(msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="gae", forbid_unknown_fields=True):
    """Options of `gae`.

    Attributes:
        gamma: Discount per decision; the credits must have been made with the same one.
        lam: 1 trusts the returns alone, 0 the critic alone.
        whiten: Whether advantages get mean 0 and deviation 1 over the tokens of the batch.
    """

    gamma: Share = 1.0
    lam: Share = 0.95
    whiten: bool = True


class TokenGae(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="token_gae", forbid_unknown_fields=True
):
    """Options of `token_gae`; the learner needs a value head.

    Attributes:
        gamma: Discount per sampled token.
        lam: 1 trusts the returns alone, 0 the value head alone.
        whiten: Whether advantages get mean 0 and deviation 1 over the tokens of the batch.
        value_coefficient: Weight of the value loss beside the policy loss. It matters where the head's gradients go on
            into the model; a detached head follows its step size alone.
        value_clip: How far a value may move in one update, in units of the return; 0 is as far as it likes.
        value_learning_rate: Peak step size of the head; it warms up and falls as that of the policy does. Tiny models
            want 1e-2.
    """

    gamma: Share = 1.0
    lam: Share = 0.95
    whiten: bool = True
    value_coefficient: Annotated[float, msgspec.Meta(gt=0)] = 0.1
    value_clip: Annotated[float, msgspec.Meta(ge=0)] = 0.2
    value_learning_rate: Annotated[float, msgspec.Meta(ge=0)] = 1e-4


class Rae(msgspec.Struct, frozen=True, kw_only=True, tag_field="name", tag="rae", forbid_unknown_fields=True):
    """Options of `rae`: share of an agent's baseline that is kept at each of its rollouts."""

    decay: Share = 0.95


AdvantageOptions = Gdpo | ReinforcePp | Gae | TokenGae | Rae

DEFAULTS: Mapping[Estimator, AdvantageOptions] = {
    Estimator.GDPO: Gdpo(),
    Estimator.REINFORCE_PP: ReinforcePp(),
    Estimator.GAE: Gae(),
    Estimator.TOKEN_GAE: TokenGae(),
    Estimator.RAE: Rae(),
}
"""Options of the estimators that have some, when they are asked for by name alone."""


def estimator_of(choice: Estimator | AdvantageOptions) -> Estimator:
    """The estimator that options belong to."""
    return choice if isinstance(choice, Estimator) else Estimator(str(choice.__struct_config__.tag))


def group_advantages(
    credits_: Credits,
    *,
    estimator: Estimator,
    std_eps: float = 1e-6,
    tokens: Sequence[int] = (),
) -> list[list[float]]:
    """Advantages of the decisions that are compared with each other, in the shape of the credits.

    Where all credits are equal there is nothing to learn, and nothing to compare with in a group of one, whatever
    credits its decisions have: advantages are exactly 0, except for `reinforce`, which compares with nothing.
    `reinforce_pp_baseline` is the difference only: `whiten` over the batch completes it.

    Args:
        credits_: Of the decisions, by rollout.
        estimator: Formula; one of those that look at one group.
        std_eps: Term beside the standard deviation (`grpo`).
        tokens: Sampled tokens of each rollout (`opo`).

    Raises:
        ConfigError: The mean return is one that the formula cannot divide by.
        ValueError: The formula needs more than one group's credits.
    """
    if estimator is Estimator.REINFORCE:
        return [list(decisions) for decisions in credits_]
    returns = [statistics.fmean(decisions) for decisions in credits_ if decisions]
    if len(returns) < 2 or is_flat(credit for decisions in credits_ for credit in decisions):
        return [[0.0] * len(decisions) for decisions in credits_]
    mean = statistics.fmean(returns)
    match estimator:
        case Estimator.GRPO:
            return _scaled(credits_, mean, unit(credits_, estimator=estimator, std_eps=std_eps))
        case Estimator.DR_GRPO | Estimator.REINFORCE_PP_BASELINE:
            return _scaled(credits_, mean, 1.0)
        case Estimator.MAXRL:
            return _scaled(credits_, mean, unit(credits_, estimator=estimator, std_eps=std_eps))
        case Estimator.RLOO:
            return _left_out(credits_, total=math.fsum(returns), count=len(returns))
        case Estimator.OPO:
            made = [
                (length, statistics.fmean(own)) for length, own in zip(tokens, credits_, strict=True) if own
            ]
            total = sum(length for length, _ in made)
            baseline = math.fsum(length * value for length, value in made) / total if total else mean
            return _scaled(credits_, baseline, 1.0)
        case _:
            raise ValueError(f"{estimator.value!r} is not a formula of one group's credits")


def gdpo_advantages(
    groups: Sequence[Sequence[Mapping[str, float]]],
    *,
    weights: Mapping[str, float],
    std_eps: float = 1e-6,
    counts: Sequence[Sequence[float]] = (),
) -> list[list[float]]:
    """GDPO (arXiv 2601.05242): each dimension normalised in its group, summed, then whitened over the batch.

    Args:
        groups: Outcome by dimension of each rollout, by group.
        weights: By dimension; 1 for those that are absent.
        std_eps: Term beside the standard deviation of a group.
        counts: How much each rollout counts in the last step, such as its tokens; all the same by default.
    """
    summed = []
    for rollouts in groups:
        total = [0.0] * len(rollouts)
        for name in sorted({name for outcomes in rollouts for name in outcomes}):
            credits_ = [[outcomes[name]] for outcomes in rollouts]
            own = group_advantages(credits_, estimator=Estimator.GRPO, std_eps=std_eps)
            total = [value + weights.get(name, 1.0) * mine for value, (mine,) in zip(total, own, strict=True)]
        summed.append(total)
    flat = [value for values in summed for value in values]
    flat_counts = [count for values in counts for count in values] or [1.0] * len(flat)
    whitened = iter(whiten(flat, counts=flat_counts))
    return [[next(whitened) for _ in values] for values in summed]


def rae_advantages(
    returns: Sequence[tuple[str, float]], *, baselines: Mapping[str, float], decay: float
) -> tuple[list[float], dict[str, float]]:
    """Role-conditioned advantages (SPIRAL, arXiv 2506.24119): return less a baseline that follows it slowly.

    Args:
        returns: Agent and return of each rollout, in order; the baseline moves after each use.
        baselines: By agent, as the last update left them; 0 for agents not seen yet.
        decay: Share of the baseline that is kept.

    Returns:
        Advantages, and the baselines after the last of them.
    """
    current = dict(baselines)
    advantages = []
    for agent, value in returns:
        baseline = current.get(agent, 0.0)
        advantages.append(value - baseline)
        current[agent] = decay * baseline + (1.0 - decay) * value
    return advantages, current


def deviation(credits_: Credits) -> float:
    """Sample standard deviation of credits where each rollout has the same weight; 0 for a single rollout."""
    made = [decisions for decisions in credits_ if decisions]
    if len(made) < 2:
        return 0.0
    mean = statistics.fmean(statistics.fmean(decisions) for decisions in made)
    spread = math.fsum(statistics.fmean((credit - mean) ** 2 for credit in decisions) for decisions in made)
    return math.sqrt(spread / (len(made) - 1))


def unit(credits_: Credits, *, estimator: Estimator, std_eps: float = 1e-6) -> float:
    """What an advantage has per unit of the return: 1 for estimators that only subtract.

    Raises:
        ConfigError: The mean return is negative (`maxrl`).
    """
    if estimator.divides:
        return 1.0 / (deviation(credits_) + std_eps)
    if estimator is not Estimator.MAXRL:
        return 1.0
    mean = statistics.fmean(statistics.fmean(decisions) for decisions in credits_ if decisions)
    if mean < 0:
        raise ConfigError(
            f"advantage 'maxrl' divides by the mean return of a group, which is {mean!r}: what is better than others "
            "would be learned as worse. Give rewards of 0 and more, such as 1 for a pass, or take 'grpo'"
        )
    return 1.0 / mean if mean else 0.0


def is_flat(values: Iterable[float]) -> bool:
    """Whether all values are equal."""
    return len(set(values)) <= 1


def _scaled(credits_: Credits, baseline: float, scale: float) -> list[list[float]]:
    return [[(credit - baseline) * scale for credit in decisions] for decisions in credits_]


def _left_out(credits_: Credits, *, total: float, count: int) -> list[list[float]]:
    """Each decision against the mean of the other rollouts; a rollout without others is its own baseline."""
    found = []
    for decisions in credits_:
        own = statistics.fmean(decisions) if decisions else 0.0
        baseline = (total - own) / (count - 1) if count > 1 else own
        found.append([credit - baseline for credit in decisions])
    return found
