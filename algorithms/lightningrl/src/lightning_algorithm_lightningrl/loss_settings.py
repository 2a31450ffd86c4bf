"""Settings of the losses, each with the defaults of its source, and how they reach the learner."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from agentlightning.engine import LossInput, LossSpec
from agentlightning.errors import ConfigError
from lightning_algorithm_lightningrl.advantages import TokenGae

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

MODULE = "lightning_algorithm_lightningrl.losses"


class LossName(StrEnum):
    """Losses that can be asked for by name alone: they have the defaults of their settings."""

    PPO_CLIP = "ppo_clip"
    REINFORCE = "reinforce"
    CISPO = "cispo"
    CISPO_CAP = "cispo_cap"
    SAPO = "sapo"
    DPPO_TV = "dppo_tv"
    DPPO_KL = "dppo_kl"
    GSPO = "gspo"
    GMPO = "gmpo"


class Unit(StrEnum):
    """What a sequence is for losses with one ratio per sequence."""

    CALL = "call"
    ROLLOUT = "rollout"


class LossSettings(msgspec.Struct, frozen=True, kw_only=True, tag_field="name", forbid_unknown_fields=True):
    """What all losses have in common: their parameters are the function's keywords."""

    @property
    def name(self) -> LossName:
        """Name of the loss."""
        return LossName(str(self.__struct_config__.tag))

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """Keyword arguments of the function."""
        found = msgspec.structs.asdict(self)
        found.pop("unit", None)
        return found


class PpoClip(LossSettings, frozen=True, kw_only=True, tag="ppo_clip"):
    """PPO's clip; with these defaults DAPO's. See `losses.ppo_clip`.

    Attributes:
        clip_low: The ratio of new to old probability is clipped at 1 - clip_low.
        clip_high: And at 1 + clip_high.
        dual_clip: Bound on the loss of tokens with negative advantage, in advantages; 0 is off.
        max_ratio: Bound on their ratio instead; 0 is off.
    """

    clip_low: Share = 0.2
    clip_high: NonNegative = 0.28
    dual_clip: NonNegative = 0.0
    max_ratio: NonNegative = 0.0

    def __post_init__(self) -> None:
        if 0 < self.dual_clip <= 1:
            raise ConfigError(f"dual_clip is {self.dual_clip!r}; give more than 1 (3 is usual), or 0 for off")
        if 0 < self.max_ratio <= 1 + self.clip_high:
            raise ConfigError(
                f"max_ratio is {self.max_ratio!r}; give more than 1 + clip_high ({1 + self.clip_high!r}; 4 is usual), "
                "or 0 for off"
            )


class Reinforce(LossSettings, frozen=True, kw_only=True, tag="reinforce"):
    """The plain policy gradient. See `losses.reinforce`."""


class Cispo(LossSettings, frozen=True, kw_only=True, tag="cispo"):
    """CISPO with both bounds. See `losses.cispo`."""

    clip_low: Share = 0.2
    clip_high: NonNegative = 0.28


class CispoCap(LossSettings, frozen=True, kw_only=True, tag="cispo_cap"):
    """CISPO with an upper bound alone. See `losses.cispo_cap`."""

    cap: Positive = 5.0


class Sapo(LossSettings, frozen=True, kw_only=True, tag="sapo"):
    """Soft gates. See `losses.sapo`."""

    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05


class DppoTv(LossSettings, frozen=True, kw_only=True, tag="dppo_tv"):
    """A band in probability. See `losses.dppo_tv`."""

    band_low: Share = 0.2
    band_high: Share = 0.2
    cap: Positive = 20.0


class DppoKl(LossSettings, frozen=True, kw_only=True, tag="dppo_kl"):
    """A band in binary KL. See `losses.dppo_kl`."""

    band_low: NonNegative = 0.05
    band_high: NonNegative = 0.05
    cap: Positive = 20.0


class Gspo(LossSettings, frozen=True, kw_only=True, tag="gspo"):
    """One ratio per sequence. See `losses.gspo`."""

    clip_low: Share = 3e-4
    clip_high: NonNegative = 4e-4
    token: bool = False
    unit: Unit = Unit.CALL


class Gmpo(LossSettings, frozen=True, kw_only=True, tag="gmpo"):
    """Geometric mean of clipped ratios. See `losses.gmpo`."""

    clip_low: NonNegative = 0.4
    clip_high: NonNegative = 0.4
    unit: Unit = Unit.CALL


Loss = PpoClip | Reinforce | Cispo | CispoCap | Sapo | DppoTv | DppoKl | Gspo | Gmpo

BY_NAME: Mapping[LossName, type[Loss]] = {
    LossName.PPO_CLIP: PpoClip,
    LossName.REINFORCE: Reinforce,
    LossName.CISPO: Cispo,
    LossName.CISPO_CAP: CispoCap,
    LossName.SAPO: Sapo,
    LossName.DPPO_TV: DppoTv,
    LossName.DPPO_KL: DppoKl,
    LossName.GSPO: Gspo,
    LossName.GMPO: Gmpo,
}
"""Settings of each loss."""


class KlEstimator(StrEnum):
    """See `losses.kl_divergence`."""

    K1 = "k1"
    K2 = "k2"
    K3 = "k3"
    K1_STRAIGHT = "k1+"
    K3_STRAIGHT = "k3+"


class Placement(StrEnum):
    """Where the divergence goes: beside the policy loss, or out of the rollout's return."""

    LOSS = "loss"
    REWARD = "reward"


class Kl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pull towards the weights that the run began with.

    Attributes:
        coefficient: Factor on the divergence.
        estimator: How a token's divergence is estimated.
        placement: `loss`, or `reward`: each rollout's return is lowered by the sum over its tokens, under the policy
            at the beginning of the update.
        corrected: Whether the divergence in the loss is multiplied by the ratio (DeepSeek-V3.2).
        cap: Largest k3 in the loss; 0 is off.
    """

    coefficient: Positive = 1e-3
    estimator: KlEstimator = KlEstimator.K3
    placement: Placement = Placement.LOSS
    corrected: bool = False
    cap: NonNegative = 0.0

    def __post_init__(self) -> None:
        straight = self.estimator.endswith("+")
        if self.placement is Placement.REWARD and (straight or self.corrected or self.cap):
            raise ConfigError(
                f"kl placed in the reward has no gradient, so estimator {self.estimator.value!r}, corrected and cap "
                "cannot be honoured there; take estimator k1, k2 or k3 alone"
            )
        if self.placement is Placement.LOSS and self.estimator is KlEstimator.K1 and not self.corrected:
            raise ConfigError(
                "the gradient of kl estimator 'k1' in the loss is noise around 0; take 'k1+', 'k2' or 'k3', "
                "corrected = true, or placement 'reward'"
            )
        if self.cap and not self.estimator.startswith("k3"):
            raise ConfigError(
                f"kl cap bounds k3, and the estimator is {self.estimator.value!r}; leave cap out"
            )


class Drift(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name", tag="opsm"
):
    """Off-policy sequence mask (DeepSeek-V3.2): sequences with A < 0 that have drifted off have no policy loss.

    Attributes:
        delta: Largest mean of the sampler's log-probability less the present one.
        unit: What a sequence is.
    """

    delta: Positive = 0.1
    unit: Unit = Unit.CALL


def loss_spec(
    loss: Loss,
    *,
    kl: Kl | None = None,
    entropy: float = 0.0,
    drift: Drift | None = None,
    critic: TokenGae | None = None,
) -> LossSpec:
    """The loss as a learner takes it; in company it has another name, so that no engine takes it for the bare loss."""
    inputs = [LossInput(f"{loss.unit.value}s")] if isinstance(loss, Gspo | Gmpo) else []
    in_loss = kl if kl and kl.placement is Placement.LOSS else None
    if not (in_loss or entropy or drift or critic):
        name = loss.name.value
        return LossSpec(name=name, target=f"{MODULE}:{name}", params=loss.params, inputs=tuple(inputs))
    params: dict[str, float | int | str | bool] = {"policy": loss.name.value, **loss.params}
    company = [loss.name.value]
    if in_loss:
        company.append("kl")
        inputs.append(LossInput.REFERENCE)
        params |= {
            "kl_coefficient": in_loss.coefficient,
            "kl_estimator": in_loss.estimator.value,
            "kl_corrected": in_loss.corrected,
            "kl_cap": in_loss.cap,
        }
    if entropy:
        company.append("entropy")
        params["entropy_coefficient"] = entropy
    if drift:
        company.append("opsm")
        inputs += [LossInput.SAMPLER, LossInput(f"{drift.unit.value}s")]
        params["drift_delta"] = drift.delta
    if critic:
        company.append("value")
        inputs += [LossInput.VALUES, LossInput.OLD_VALUES, LossInput.RETURNS]
        params |= {"value_coefficient": critic.value_coefficient, "value_clip": critic.value_clip}
    return LossSpec(
        name="+".join(company),
        target=f"{MODULE}:regularised",
        params=params,
        inputs=tuple(dict.fromkeys(inputs)),
    )
