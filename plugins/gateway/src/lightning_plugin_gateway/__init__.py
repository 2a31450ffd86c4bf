"""The gateway: serves model calls over the OpenAI wire and records each with token ids and log-probabilities."""
