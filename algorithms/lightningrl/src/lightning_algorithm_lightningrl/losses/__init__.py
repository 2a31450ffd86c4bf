"""Policy losses as pure functions of torch tensors.

Each takes `[T]` tensors over the trained tokens of a micro-batch and returns the summed loss and `[T]` metrics, which
the learner averages over all tokens. The loss is a plain sum of weight times token loss: how tokens are averaged is in
the weights, see `aggregation`. Losses that compare whole calls or rollouts take `calls_T` or `rollouts_T` and want all
tokens of each in one call.
"""

from lightning_algorithm_lightningrl.losses._kl import kl_divergence
from lightning_algorithm_lightningrl.losses._ratio import LARGEST_LOG_RATIO
from lightning_algorithm_lightningrl.losses._regularised import regularised
from lightning_algorithm_lightningrl.losses._sequence import gmpo, gspo
from lightning_algorithm_lightningrl.losses._soft import cispo, cispo_cap, dppo_kl, dppo_tv, sapo
from lightning_algorithm_lightningrl.losses._token import ppo_clip, reinforce
from lightning_algorithm_lightningrl.losses._value import value_loss

__all__ = [
    "LARGEST_LOG_RATIO",
    "cispo",
    "cispo_cap",
    "dppo_kl",
    "dppo_tv",
    "gmpo",
    "gspo",
    "kl_divergence",
    "ppo_clip",
    "regularised",
    "reinforce",
    "sapo",
    "value_loss",
]
