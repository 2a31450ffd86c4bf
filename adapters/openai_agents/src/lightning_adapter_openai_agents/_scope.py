"""Instrumentation scope of the adapter's spans."""

from __future__ import annotations

from typing import Final

SCOPE: Final = "lightning_adapter_openai_agents"
