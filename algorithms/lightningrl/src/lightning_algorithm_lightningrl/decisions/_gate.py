"""What goes live: candidates are published, judged off-policy against what is live, and promoted or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from agentlightning.algorithm import TrainingContext
from agentlightning.errors import ConfigError
from agentlightning.types import DecisionPolicy, Resource, ResourceSet
from lightning_algorithm_lightningrl.decisions._config import DecisionsConfig, Promotion
from lightning_algorithm_lightningrl.decisions._learner import DecisionLearner
from lightning_algorithm_lightningrl.decisions.offpolicy import Comparison, compare, default_target, target_of

LEAST_GROUPS: Final = 8
"""Held-out groups below which a bootstrap over groups promises too much: of two, every fourth chance gain passes."""


class Gate:
    """Publishes a learner's policies.

    Args:
        context: The run.
        config: Settings.
        learner: Whose policies.
    """

    def __init__(
        self, context: TrainingContext, *, config: DecisionsConfig, learner: DecisionLearner
    ) -> None:
        self._context = context
        self._config = config
        self._learner = learner

    async def candidate(self, *, step: int) -> ResourceSet:
        """The policy as it is now beside all other resources that are live, for rollouts to be pinned to."""
        return await self._publish(self._learner.policy, step=step, live=False)

    async def judge(self, *, step: int) -> dict[str, float]:
        """Compares with what is live, and promotes where that is due. Returns the numbers it decided by."""
        config, state = self._config, self._learner.state
        policy = self._learner.policy
        found: Comparison | None = None
        if state.window:
            found = compare(
                state.window,
                candidate=target_of(policy),
                incumbent=target_of(state.incumbent) if state.incumbent else default_target,
                seed=self._context.seed,
            )
        groups = len({rollout.group for rollout in state.window})
        reason = _objection(found, config, groups=groups)
        if not reason or config.promote is Promotion.ALWAYS:
            await self._publish(policy, step=step, live=True)
            state.incumbent = policy
            promoted = True
        else:
            await self._context.event("candidate_refused", f"policy version {policy.version}: {reason}")
            promoted = False
        return _metrics(found) | {"decisions/ope/promoted": float(promoted)}

    async def _publish(self, policy: DecisionPolicy, *, step: int, live: bool) -> ResourceSet:
        current = await self._context.store.resources.live()
        kept = cast(
            "Mapping[str, Resource]", current.resources if current else {}
        )  # records stay as they are
        return await self._context.publish({**kept, self._config.resource: policy}, step=step, live=live)


async def live_policy(context: TrainingContext, *, resource: str) -> DecisionPolicy | None:
    """The policy that is live.

    Raises:
        ConfigError: The resource of that name is something else.
    """
    current = await context.store.resources.live()
    record = current.resources.get(resource) if current else None
    if record is None:
        return None
    if record.kind != DecisionPolicy.kind:
        raise ConfigError(
            f"resource {resource!r} is of kind {record.kind!r}, and decisions would replace it; give the policy "
            "another name (resource = …)"
        )
    return cast("DecisionPolicy", record.load({DecisionPolicy.kind: DecisionPolicy}))


def _objection(found: Comparison | None, config: DecisionsConfig, *, groups: int) -> str:
    """Why a candidate is not promoted; empty if it is."""
    if found is None:
        return "no rollouts were held out so far to judge it on"
    if found.candidate.effective < config.min_effective:
        return (
            f"the effective sample size is {found.candidate.effective:.1f} of {found.candidate.n} rollouts, below "
            f"min_effective={config.min_effective:g}"
        )
    if groups < LEAST_GROUPS:
        return (
            f"the {found.candidate.n} rollouts to judge it on are of {groups} groups only, and intervals over fewer "
            f"than {LEAST_GROUPS} are too narrow; wait for more, or raise window ({config.window}) or holdout "
            f"({config.holdout:g})"
        )
    gain = found.gain
    if gain.low <= 0:
        return f"its gain over what is live is {gain.value:.4g}, in [{gain.low:.4g}, {gain.high:.4g}]"
    return ""


def _metrics(found: Comparison | None) -> dict[str, float]:
    if found is None:
        return {}
    own = found.candidate
    return {
        "decisions/ope/ips": own.ips.value,
        "decisions/ope/snips": own.snips.value,
        "decisions/ope/dr": own.dr.value,
        "decisions/ope/dr_low": own.dr.low,
        "decisions/ope/dr_high": own.dr.high,
        "decisions/ope/incumbent_dr": found.incumbent.dr.value,
        "decisions/ope/gain": found.gain.value,
        "decisions/ope/gain_low": found.gain.low,
        "decisions/ope/gain_high": found.gain.high,
        "decisions/ope/effective": own.effective,
        "decisions/ope/rollouts": float(own.n),
        "decisions/ope/weight_max": own.largest,
        "decisions/ope/logged": own.logged,
    }
