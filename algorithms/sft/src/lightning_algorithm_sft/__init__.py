"""SFT: supervised fine-tuning on demonstrations and on an agent's own good rollouts."""
