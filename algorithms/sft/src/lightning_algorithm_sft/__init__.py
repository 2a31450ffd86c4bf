"""SFT: supervised fine-tuning on demonstrations and on an agent's own good rollouts."""

from lightning_algorithm_sft._config import SFTConfig, Stored
from lightning_algorithm_sft._loop import SFT, create

__all__ = ["SFT", "SFTConfig", "Stored", "create"]
