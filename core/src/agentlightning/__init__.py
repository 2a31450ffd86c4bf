"""Train any LLM agent without changing it: the minimal core."""
