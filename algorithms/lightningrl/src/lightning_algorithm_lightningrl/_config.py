"""Settings of LightningRL."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl._modes import Asynchronous, Offline, Selection
from lightning_algorithm_lightningrl.advantages import (
    DEFAULTS,
    AdvantageOptions,
    Compare,
    Estimator,
    TokenGae,
    estimator_of,
)
from lightning_algorithm_lightningrl.aggregation import Aggregation, SequenceSumNorm
from lightning_algorithm_lightningrl.correction import Correction, Level, masks_within
from lightning_algorithm_lightningrl.loss_settings import (
    BY_NAME,
    Drift,
    Gmpo,
    Gspo,
    Kl,
    Loss,
    LossName,
    Placement,
    Unit,
    loss_spec,
)
from lightning_algorithm_lightningrl.schedules import Schedule

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class OldPolicy(StrEnum):
    """Whose log-probabilities ratios are taken to: what the sampler reported, or the learner's own at the start."""

    SAMPLER = "sampler"
    LEARNER = "learner"


class LightningRLConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of LightningRL. Each is honoured or refused.

    Attributes:
        updates: Updates of the weights, each from fresh rollouts.
        tasks_per_update: Tasks (groups) sampled for one update.
        group_size: Rollouts per task; at least 2 unless `advantage` compares no group.
        passes: Optimiser steps over the rollouts of one update; from the second on the loss clips in earnest.
        learning_rate: Peak step size of AdamW; 1e-6 suits full fine-tuning of models of billions of parameters, tiny
            models want 1e-4 and more.
        warmup: Updates over which the learning rate rises linearly from 0.
        schedule: What it does after the warm-up: `constant`, or `linear` or `cosine` down to 0 at the end.
        weight_decay: Decoupled weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this global norm; 0 is off.
        advantage: Name of an estimator, or a table with its `name` and options; see `advantages`.
        std_eps: Added to the standard deviation of a group (`grpo`, `gdpo`); 1e-6 unless given.
        compare: Which decisions of a group are compared: those of the `rollout`, of the same `agent`, or `turn`. Unless
            given, `agent` where the stage `credit` has rules of single agents, else `rollout`.
        loss: Name of a loss, or a table with its `name` and settings; see `loss_settings`.
        aggregation: What counts the same in the loss: each token of the batch, unless given; see `aggregation`.
            `sequence_sum_norm` is a table with `length`.
        kl: Pull towards the weights that the run began with; none unless given.
        entropy: Coefficient of the entropy bonus from sampled tokens; see `losses.regularised`.
        old_policy: Whose log-probabilities ratios are taken to: `sampler`, or `learner` at the price of a forward pass
            (decoupled). Unless given, `learner` if there are several passes or a `correction`, else `sampler`.
        correction: Importance corrections for what sampler and learner disagree on, applied one after the other: tables
            with the `name` `tis`, `mis`, `icepop`, `geometric` (see `correction`) or `opsm` (see `loss_settings`).
        max_staleness: Calls that are more policy versions behind than this are never trained. 0 is on-policy: rollouts
            and updates take turns. Above 0 rollouts go on while the learner learns, and groups with a call that is
            further behind are left out whole.
        asynchronous: How, above 0; see `Asynchronous`.
        offline: Updates from stored rollouts instead of new ones; see `Offline`. Groups are as they are stored, so
            `group_size` is not used.
        selection: Which groups an update is made of; see `Selection`.
        max_masked_share: The run stops when a larger share of an update's calls cannot be trained on, because tokens
            are missing or their policy version is unknown or too old.
        checkpoint_every: Updates between checkpoints; the last one is always saved.
        evaluate_every: Updates between evaluations; 0 evaluates only before and after.
    """

    updates: Count = 100
    tasks_per_update: Positive = 32
    group_size: Positive = 8
    passes: Positive = 1
    learning_rate: NonNegative = 1e-6
    warmup: Count = 0
    schedule: Schedule = Schedule.CONSTANT
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    advantage: Estimator | AdvantageOptions = Estimator.GRPO
    std_eps: NonNegative | None = None
    compare: Compare | None = None
    loss: LossName | Loss = LossName.PPO_CLIP
    aggregation: Aggregation | SequenceSumNorm = Aggregation.TOKEN_MEAN
    kl: Kl | None = None
    entropy: NonNegative = 0.0
    old_policy: OldPolicy | None = None
    correction: tuple[Correction | Drift, ...] = ()
    max_staleness: Count = 0
    asynchronous: Asynchronous = Asynchronous()
    offline: Offline | None = None
    selection: Selection = Selection()
    max_masked_share: Share = 0.5
    checkpoint_every: Positive = 10
    evaluate_every: Count = 0

    def __post_init__(self) -> None:
        self._check_advantage()
        self._check_loss()
        self._check_correction()
        self._check_mode()

    @property
    def estimator(self) -> Estimator:
        """Name of the advantage."""
        return estimator_of(self.advantage)

    @property
    def critic(self) -> TokenGae | None:
        """How values of tokens are learned and used; None without a critic of tokens."""
        options = DEFAULTS.get(self.estimator) if isinstance(self.advantage, Estimator) else self.advantage
        return options if isinstance(options, TokenGae) else None

    @property
    def group_std_eps(self) -> float:
        """Term beside the standard deviation of a group."""
        return 1e-6 if self.std_eps is None else self.std_eps

    @property
    def kl_in_reward(self) -> Kl | None:
        """The divergence that is taken out of the returns."""
        return self.kl if self.kl and self.kl.placement is Placement.REWARD else None

    @property
    def loss_settings(self) -> Loss:
        """The loss with its settings."""
        if isinstance(self.loss, LossName):
            return BY_NAME[self.loss]()
        return self.loss

    @property
    def drift(self) -> Drift | None:
        """The correction that moves with the weights, so that the loss applies it."""
        return next((each for each in self.correction if isinstance(each, Drift)), None)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The corrections that are factors on the weights of tokens."""
        return tuple(each for each in self.correction if not isinstance(each, Drift))

    @property
    def asks_learner(self) -> bool:
        """Whether ratios are taken to the learner's own log-probabilities."""
        if self.old_policy is None:
            return self.passes > 1 or bool(self.correction)
        return self.old_policy is OldPolicy.LEARNER

    @property
    def trains_flat(self) -> bool:
        """Whether tokens of advantage 0 have a gradient, or a part in the ratio of others."""
        in_loss = self.kl is not None and self.kl_in_reward is None
        settings = self.loss_settings
        return (
            in_loss
            or self.entropy > 0
            or self.critic is not None
            or (isinstance(settings, Gspo | Gmpo) and settings.unit is Unit.ROLLOUT)
        )

    @property
    def flows(self) -> bool:
        """Whether groups are begun one by one: beside the learner, or as many as it takes."""
        return self.max_staleness > 0 or self.selection != Selection()

    @property
    def loss_spec(self) -> LossSpec:
        """The loss as the learner takes it."""
        return loss_spec(
            self.loss_settings, kl=self.kl, entropy=self.entropy, drift=self.drift, critic=self.critic
        )

    def optimizer(self, update: int) -> OptimizerConfig:
        """The optimiser's settings at an update, from 0."""
        factor = self.schedule.factor(update, total=self.updates, warmup=self.warmup)
        return OptimizerConfig(
            learning_rate=self.learning_rate * factor,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            value_learning_rate=self.critic.value_learning_rate * factor if self.critic else None,
        )

    def _check_advantage(self) -> None:
        name = self.estimator.value
        if self.group_size < 2 and self.estimator.needs_group:
            raise ConfigError(
                f"group_size is {self.group_size}, but advantage {name!r} compares the rollouts of a "
                "task with each other; take at least 2, or advantage 'reinforce'"
            )
        if self.std_eps is not None and not self.estimator.divides:
            raise ConfigError(
                f"std_eps is {self.std_eps!r}, but advantage {name!r} divides by no deviation; leave it out"
            )
        if self.compare not in (None, Compare.ROLLOUT) and (
            not self.estimator.needs_group or self.estimator is Estimator.GDPO
        ):
            raise ConfigError(
                f"compare is {str(self.compare)!r}, but advantage {name!r} compares no decisions of a group; "
                "leave it out, or take an advantage such as 'grpo'"
            )
        if self.selection.replace_flat and not (
            self.estimator.needs_group or self.estimator is Estimator.GAE
        ):
            raise ConfigError(
                f"selection replaces {self.selection.replace_flat!r} groups whose credits are equal, and advantage "
                f"{name!r} learns from them too, as it compares with no group; leave replace_flat out"
            )
        if self.estimator is Estimator.GDPO and self.kl and self.kl.placement is Placement.REWARD:
            raise ConfigError(
                "advantage 'gdpo' normalises each dimension of the outcome by itself, so that a kl in the reward has "
                "no place; put it in the loss"
            )

        if self.estimator is Estimator.MAXRL and self.kl and self.kl.placement is Placement.REWARD:
            raise ConfigError(
                "advantage 'maxrl' divides by the mean return of a group, which a kl in the reward lowers below 0 "
                "where all fail; put it in the loss"
            )

    def _check_loss(self) -> None:
        if self.aggregation is Aggregation.SEQUENCE_SUM_NORM:
            raise ConfigError(
                "aggregation 'sequence_sum_norm' divides by a constant length; give it, such as the most tokens of a "
                'rollout: aggregation = {name = "sequence_sum_norm", length = 1024}'
            )

    def _check_correction(self) -> None:
        drifts = sum(isinstance(each, Drift) for each in self.correction)
        settings = self.loss_settings
        if drifts > 1:
            raise ConfigError(f"correction has {drifts} times 'opsm'; one is enough")
        if self.corrections and not self.asks_learner:
            raise ConfigError(
                "old_policy 'sampler' takes ratios to what the sampler reported, which corrects for it already; a "
                "correction on top would count it twice. Take old_policy 'learner', or leave correction out "
                "(loss 'cispo_cap' is truncated importance sampling in one step)"
            )
        if not isinstance(settings, Gspo | Gmpo):
            return
        if self.drift and self.drift.unit is not settings.unit:
            raise ConfigError(
                f"loss {settings.name.value!r} compares each {settings.unit.value} and correction 'opsm' each "
                f"{self.drift.unit.value}; give both the same unit"
            )
        if parts := list(masks_within(self.corrections, unit=Level(settings.unit.value))):
            raise ConfigError(
                f"loss {settings.name.value!r} has one ratio for each {settings.unit.value}, of which "
                f"{parts[0]!r} could reject a part; take level {settings.unit.value!r}, or 'tis', which rejects nothing"
            )

    def _check_mode(self) -> None:
        if self.offline is None and not self.max_staleness:
            if self.asynchronous != Asynchronous():
                raise ConfigError(
                    "asynchronous has settings, but max_staleness is 0, which is on-policy; give the most policy "
                    "versions that a call may be behind, such as max_staleness = 2"
                )
            return
        if self.offline is not None:
            for name, default in (
                ("max_staleness", 0),
                ("asynchronous", Asynchronous()),
                ("selection", Selection()),
            ):
                if getattr(self, name) != default:
                    raise ConfigError(
                        f"offline learns from what is stored and plays nothing, so {name} cannot be honoured; leave it "
                        "out"
                    )
        elif self.max_staleness < self.passes:
            raise ConfigError(
                f"max_staleness is {self.max_staleness} policy versions, and one update makes {self.passes} of them "
                f"(passes); every group begun before an update would be stale. Take at least {self.passes}, or 0"
            )
        self._check_importance()

    def _check_importance(self) -> None:
        """Experience of another policy needs a ratio to it somewhere: in the loss, or in a correction."""
        if self.corrections:
            return
        if self.asks_learner:
            raise ConfigError(
                "ratios are taken to the learner's own log-probabilities (old_policy 'learner', or several passes), "
                "and nothing corrects for the older policy that sampled; add one, such as "
                'correction = [{name = "tis"}], or take old_policy "sampler"'
            )
        if self.loss_settings.name is LossName.REINFORCE:
            raise ConfigError(
                "loss 'reinforce' has no ratio to the policy that sampled; take another loss, or add a correction, "
                'such as correction = [{name = "tis"}]'
            )
