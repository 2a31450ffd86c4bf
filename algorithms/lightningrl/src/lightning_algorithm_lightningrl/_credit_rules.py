"""What the pipeline's credits are on the scale of: which advantages fit them, and who is compared with whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_algorithm_lightningrl.advantages import DEFAULTS, AdvantageOptions, Estimator, Gae

ANCHORED: Final = "group_by_state"
_COUNTERFACTUAL: Final = "leave_one_out"
_CRITIC: Final = "critic"
_OUTCOME: Final = "outcome"
_SUBTRACTS: Final = frozenset(
    {
        Estimator.DR_GRPO,
        Estimator.RLOO,
        Estimator.OPO,
        Estimator.REINFORCE_PP_BASELINE,
        Estimator.REINFORCE,
        Estimator.RAE,
    }
)
"""Advantages that take a baseline off, or nothing, and divide by nothing of the group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRules:
    """The parameters of the run's stage `credit`.

    Attributes:
        every: For all agents; empty for the stage's defaults.
        agents: What is different for single agents, by name.
    """

    every: Mapping[str, Json] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)

    @classmethod
    def of_run(cls, config: Mapping[str, Json]) -> CreditRules:
        """The rules of a run's configuration."""
        stages = config.get("stage_params")
        params = stages.get("credit") if isinstance(stages, Mapping) else None
        if not isinstance(params, Mapping):
            return cls()
        agents = params.get("agents")
        return cls(
            every={key: value for key, value in params.items() if key != "agents"},
            agents=dict(agents) if isinstance(agents, Mapping) else {},
        )

    def of(self, agent: str) -> Mapping[str, Json]:
        """The rule of an agent."""
        return {**self.every, **self.agents.get(agent, {})}

    def is_anchored(self, agent: str) -> bool:
        """Whether an agent's credits are its return and what a comparison of states adds to it."""
        return self.of(agent).get("mode") == ANCHORED

    def is_counterfactual(self, agent: str) -> bool:
        """Whether an agent's credits are its return and what the group's mean exceeds that without the agent by."""
        return self.of(agent).get("mode") == _COUNTERFACTUAL

    def check(self, choice: Estimator | AdvantageOptions, *, estimator: Estimator) -> None:
        """Refuses credits on a scale that the advantage does not take off again.

        Raises:
            ConfigError: They do not go together.
        """
        for agent in ("", *self.agents):
            rule = self.of(agent)
            whose = f" of agent {agent!r}" if agent else ""
            if rule.get("mode") == ANCHORED:
                _check_anchored(rule, estimator=estimator, whose=whose)
            if estimator is Estimator.GAE:
                _check_values(rule, choice=choice, whose=whose)
            if estimator is Estimator.TOKEN_GAE and rule.get("mode") == _CRITIC:
                raise ConfigError(
                    f"advantage 'token_gae' has a critic of tokens, and credit mode 'critic'{whose} one of decisions; "
                    "take another credit mode, or advantage 'gae'"
                )


def _check_anchored(rule: Mapping[str, Json], *, estimator: Estimator, whose: str) -> None:
    scale = rule.get("scale", "none")
    if scale == "std" and estimator is not Estimator.GRPO:
        raise ConfigError(
            f"credit mode 'group_by_state'{whose} has scale 'std', for advantages that divide by the deviation of "
            f"the group's returns, and advantage {estimator.value!r} does not; leave scale out, or take 'grpo'"
        )
    if scale != "std" and estimator not in _SUBTRACTS:
        raise ConfigError(
            f"credit mode 'group_by_state'{whose} compares states in units of the return, and advantage "
            f"{estimator.value!r} does not keep them; take scale = 'std' with 'grpo', or an advantage that only "
            f"subtracts, such as 'dr_grpo'"
        )


def _check_values(rule: Mapping[str, Json], *, choice: Estimator | AdvantageOptions, whose: str) -> None:
    mode = str(rule.get("mode", _OUTCOME))
    options = DEFAULTS[Estimator.GAE] if isinstance(choice, Estimator) else choice
    if mode != _CRITIC and ":" not in mode:
        raise ConfigError(
            f"advantage 'gae' compares with what a critic expected, and credit mode {mode!r}{whose} has none; take "
            "credit mode 'critic', or another advantage"
        )
    discount = rule.get("discount", 1.0)
    if mode == _CRITIC and isinstance(options, Gae) and discount != options.gamma:
        raise ConfigError(
            f"advantage 'gae' discounts by gamma = {options.gamma!r} and the critic's credits{whose} by discount = "
            f"{discount!r}; give both the same"
        )
