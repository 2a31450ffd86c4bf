"""Instrumentation scope of the spans that the framework does not make itself."""

from __future__ import annotations

from typing import Final

SCOPE: Final = "lightning_adapter_autogen"
