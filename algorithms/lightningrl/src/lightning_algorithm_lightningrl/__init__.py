"""LightningRL: reinforcement learning of an agent's weights from its rollouts."""
