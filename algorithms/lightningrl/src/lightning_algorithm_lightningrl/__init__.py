"""LightningRL: reinforcement learning of an agent's weights from its rollouts."""

from lightning_algorithm_lightningrl._config import LightningRLConfig
from lightning_algorithm_lightningrl._loop import LightningRL, create

__all__ = ["LightningRL", "LightningRLConfig", "create"]
