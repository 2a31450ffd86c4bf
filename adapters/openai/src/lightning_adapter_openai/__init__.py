"""Captures the OpenAI SDK and points its clients at the gateway."""
