"""What learns decisions from experience: the policy, its optimiser, its baseline, and the rollouts it is judged on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

from agentlightning import semconv
from agentlightning.decisions import vectors
from agentlightning.errors import ConfigError, NumericalError
from agentlightning.types import DecisionPolicy, Experience, Json, pack_weights
from lightning_algorithm_lightningrl.decisions._config import Baseline, DecisionsConfig
from lightning_algorithm_lightningrl.decisions._linear import dot, follow
from lightning_algorithm_lightningrl.decisions._logged import LoggedDecision, LoggedRollout, logged
from lightning_algorithm_lightningrl.decisions._update import Adam, Choice, Objective, Pass, ascend

_FOLLOW = 0.2
"""How far the learned baseline moves towards each credit."""


class LearnerState(msgspec.Struct, kw_only=True):
    """Everything a resumed run goes on from. Changed in place.

    Attributes:
        update: Updates so far, which is the policy's version too.
        groups: Groups seen so far.
        adam: Weights and optimiser.
        expected: Weights of the learned baseline.
        window: Held-out rollouts, the newest last.
        incumbent: The policy that is live; None while decisions take their first option.
    """

    update: int = 0
    groups: int = 0
    adam: Adam = msgspec.field(default_factory=Adam)
    expected: dict[int, float] = {}
    window: list[LoggedRollout] = []
    incumbent: DecisionPolicy | None = None


class DecisionLearner:
    """Learns decisions from experience.

    Args:
        config: Settings.
        state: What `saved` returned; empty for a new one.
        incumbent: The policy that is live; a new learner begins with its weights.
    """

    def __init__(
        self, config: DecisionsConfig, *, state: Mapping[str, Json], incumbent: DecisionPolicy | None
    ) -> None:
        self._config = config
        if state:
            self.state = msgspec.convert(dict(state), type=LearnerState, str_keys=True)
        else:
            self.state = LearnerState(incumbent=incumbent, adam=Adam(weights=_weights(incumbent, config)))

    @property
    def policy(self) -> DecisionPolicy:
        """The policy as it is now, exploring."""
        config, state = self._config, self.state
        epsilon, temperature = config.exploration(state.update)
        return DecisionPolicy(
            version=state.update,
            weights=pack_weights(state.adam.weights),
            bits=config.bits,
            points=config.points,
            epsilon=epsilon,
            temperature=temperature,
        )

    def saved(self) -> dict[str, Json]:
        """The state as plain data."""
        found: dict[str, Json] = msgspec.to_builtins(self.state, str_keys=True)
        return found

    def learn(self, experience: Experience) -> dict[str, float]:
        """One update.

        Returns:
            Numbers about it, as `decisions/…`.

        Raises:
            ConfigError: The pipeline lacks a stage, or no rollout took a decision.
            NumericalError: The gradient is not finite.
        """
        config, state = self._config, self.state
        rollouts, left = logged(experience, points=config.points)
        if rollouts and not any(rollout.decisions for rollout in rollouts):
            raise ConfigError(
                f"none of {len(rollouts)} rollouts took a decision {_named(config.points)}that can be learned "
                f"(left out: {left!r}); {_taken(experience)}"
            )
        learned = self._hold_out(rollouts)
        epsilon, temperature = config.exploration(state.update)
        values = [rollout.value for rollout in rollouts]
        metrics = {
            **_earned(values),
            "decisions/held_out": float(len(state.window)),
            "decisions/left_out": float(sum(left.values())),
            "decisions/epsilon": epsilon,
            "decisions/temperature": temperature,
            "decisions/version": float(state.update),
        }
        metrics |= self._step(learned, epsilon=epsilon, temperature=temperature)
        state.update += 1
        return metrics

    def _hold_out(self, rollouts: Sequence[LoggedRollout]) -> list[LoggedRollout]:
        """The rollouts to learn from; the others go to the window, whole groups at regular distance."""
        config, state = self._config, self.state
        held: dict[str, bool] = {}
        for rollout in rollouts:
            if rollout.group not in held:
                held[rollout.group] = math.floor((state.groups + 1) * config.holdout) > math.floor(
                    state.groups * config.holdout
                )
                state.groups += 1
        state.window = [*state.window, *(one for one in rollouts if held[one.group])][-config.window :]
        return [one for one in rollouts if not held[one.group]]

    def _step(
        self, rollouts: Sequence[LoggedRollout], *, epsilon: float, temperature: float
    ) -> dict[str, float]:
        config, adam = self._config, self.state.adam
        choices = self._choices(rollouts)
        objective = Objective(
            epsilon=epsilon, temperature=temperature, weight_cap=config.weight_cap, entropy=config.entropy
        )
        passes: list[Pass] = []
        norm = 0.0
        for _ in range(config.passes):
            done = ascend(
                choices, weights=adam.weights, objective=objective, scale=1.0 / (len(rollouts) or 1)
            )
            norm = math.sqrt(math.fsum(slope * slope for slope in done.gradient.values()))
            if not math.isfinite(norm):
                raise NumericalError(
                    f"update {self.state.update} of the decision policy has a gradient of norm {norm!r}; its rollouts "
                    "are in the store: look for rewards that are far too large"
                )
            adam.step(done.gradient, learning_rate=config.learning_rate)
            passes.append(done)
        count, advantages = len(choices) or 1, [choice.advantage for choice in choices]
        first, last = passes[0], passes[-1]
        return {
            "decisions/count": float(len(choices)),
            "decisions/advantage_std": _deviation(advantages),
            "decisions/frac_zero_advantage": sum(one == 0 for one in advantages) / count,
            "decisions/entropy": first.entropy / count,
            "decisions/propensity": first.share / count,
            "decisions/importance_weight": last.weight / count,
            "decisions/importance_weight_max": max(done.largest for done in passes),
            "decisions/clip_ratio": sum(done.cut for done in passes) / (count * config.passes),
            "decisions/grad_norm": norm,
        }

    def _choices(self, rollouts: Sequence[LoggedRollout]) -> list[Choice]:
        """Decisions with their advantages; the learned baseline moves on after each prediction is made."""
        config, expected = self._config, self.state.expected
        groups: dict[tuple[str, str], list[float]] = {}
        for rollout in rollouts:
            for name, credits_ in _by_name(rollout).items():
                groups.setdefault((rollout.group, name), []).append(_mean(credits_))
        choices = []
        seen = []
        for rollout in rollouts:
            own = {name: _mean(credits_) for name, credits_ in _by_name(rollout).items()}
            for decision in rollout.decisions:
                row = vectors(decision.name, [None], context=decision.context, bits=config.bits)[0]
                seen.append((row, decision.credit))
                others = groups[rollout.group, decision.name]
                baseline = dot(expected, row) if config.baseline is not Baseline.NONE else 0.0
                if config.baseline is Baseline.LEAVE_ONE_OUT and len(others) > 1:
                    baseline = (sum(others) - own[decision.name]) / (len(others) - 1)
                choices.append(_choice(decision, advantage=decision.credit - baseline, bits=config.bits))
        for row, credit in seen:
            follow(expected, row, value=credit, rate=_FOLLOW)
        return choices


def _choice(decision: LoggedDecision, *, advantage: float, bits: int) -> Choice:
    return Choice(
        rows=vectors(decision.name, decision.options, context=decision.context, bits=bits),
        index=decision.index,
        propensity=decision.propensity,
        advantage=advantage,
    )


def _by_name(rollout: LoggedRollout) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for decision in rollout.decisions:
        found.setdefault(decision.name, []).append(decision.credit)
    return found


def _weights(policy: DecisionPolicy | None, config: DecisionsConfig) -> dict[int, float]:
    if policy is None or policy.bits != config.bits:
        return {}
    return {index: value for index, value in enumerate(policy.table) if value}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation; infinite where it is beyond floating point."""
    mean = _mean(values)
    return math.sqrt(_mean([(value - mean) * (value - mean) for value in values]))


def _earned(values: Sequence[float]) -> dict[str, float]:
    """Mean and deviation of the returns; nothing where no rollout was scored."""
    if not values:
        return {}
    return {"decisions/reward": _mean(values), "decisions/reward_std": _deviation(values)}


def _taken(experience: Experience) -> str:
    """Which decisions there are, for somebody who looks for others."""
    names = sorted(
        {
            repr(span.attributes.get(semconv.DECISION_NAME))
            for episode in experience.episodes
            for span in episode.spans
            if span.operation == semconv.OPERATION_DECISION
        }
    )
    if names:
        return f"it takes {', '.join(names)}"
    return "call agl.decide in the agent, or use another algorithm"


def _named(points: Sequence[str]) -> str:
    return f"among {list(points)!r} " if points else ""
