"""Advantages of single tokens, by what a value head expected before each: PPO with a critic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl._rollouts import Played, Sampled
from lightning_algorithm_lightningrl.advantages import TokenGae
from lightning_algorithm_lightningrl.returns import gae, step_rewards

VARIANCE_EPS = 1e-5
"""Added to the variance of the returns, as verl does."""

Numbers = dict[str, list[float]]
"""Of each sampled token, by call."""


def token_estimates(
    groups: Sequence[Sequence[Played]], *, options: TokenGae, kl: float = 0.0
) -> tuple[Numbers, Numbers]:
    """Generalised estimates over the sampled tokens of each agent of each rollout, and the returns that they make.

    The tokens of all calls of an agent follow each other in the order of its decisions, whatever stood between them:
    tool outputs, other agents' turns, another branch. At the end of each call stands the reward that makes its credit
    the return to go.

    Args:
        groups: All rollouts.
        options: How.
        kl: Coefficient of the divergences that are taken out of each token's reward.

    Returns:
        Advantages, not yet whitened, and returns: advantages plus values.

    Raises:
        ConfigError: A call has no values.
    """
    advantages: Numbers = {}
    returns: Numbers = {}
    for calls in (calls for group in groups for rollout in group for calls in _by_agent(rollout)):
        values = [value for call in calls for value in _values(call)]
        rewards = [reward for each in _rewards(calls, kl) for reward in each]
        found = gae(rewards, values=values, gamma=options.gamma, lam=options.lam)
        pairs = iter(zip(found, values, strict=True))
        for call in calls:
            own = [next(pairs) for _ in range(call.tokens)]
            advantages[call.id] = [advantage for advantage, _ in own]
            returns[call.id] = [advantage + value for advantage, value in own]
    return advantages, returns


def explained_variance(values: Sequence[float], *, returns: Sequence[float]) -> float:
    """1 - var(R - V) / var(R): 1 is a perfect critic, 0 one that knows nothing; 0 if there are fewer than two."""
    if len(returns) < 2:
        return 0.0
    errors = [target - value for target, value in zip(returns, values, strict=True)]
    return 1.0 - _variance(errors) / (_variance(returns) + VARIANCE_EPS)


def critic_metrics(
    groups: Sequence[Sequence[Played]], *, returns: Mapping[str, Sequence[float]]
) -> Mapping[str, float]:
    """What the critic expected of every sampled token, and what came, by verl's names; nothing without a critic."""
    if not returns:
        return {}
    calls = [call for group in groups for rollout in group for call in rollout.calls if call.id in returns]
    expected = [value for call in calls for value in call.values]
    came = [value for call in calls for value in returns[call.id]]
    if not came:
        return {}
    found = {"critic/vf_explained_var": explained_variance(expected, returns=came)}
    for name, numbers in (("values", expected), ("returns", came)):
        found[f"critic/{name}/mean"] = statistics.fmean(numbers)
        found[f"critic/{name}/min"], found[f"critic/{name}/max"] = min(numbers), max(numbers)
    return found


def _variance(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _by_agent(rollout: Played) -> Iterator[list[Sampled]]:
    """The calls of each agent, in order."""
    found: dict[str, list[Sampled]] = {}
    for call in rollout.calls:
        found.setdefault(call.agent, []).append(call)
    yield from found.values()


def _rewards(calls: Sequence[Sampled], kl: float) -> Iterator[list[float]]:
    """Of each token of each call. A call without tokens hands its reward on to the last token before it."""
    pending = 0.0
    found: list[list[float]] = []
    ends = step_rewards([call.credit for call in calls], gamma=1.0)
    for call, end in zip(reversed(calls), reversed(ends), strict=True):
        own = [-kl * apart for apart in call.divergence] or [0.0] * call.tokens
        pending += end
        if own:
            own[-1] += pending
            pending = 0.0
        found.append(own)
    yield from reversed(found)


def _values(call: Sampled) -> tuple[float, ...]:
    if len(call.values) != call.tokens:
        raise ConfigError(
            f"advantage 'token_gae' compares with what a value head expected, and call {call.id} has "
            f"{len(call.values)} values for {call.tokens} tokens; let the learner compute them first, as `values` of "
            "the forest"
        )
    return call.values
