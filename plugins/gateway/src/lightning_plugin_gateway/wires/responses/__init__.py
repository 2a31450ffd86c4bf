"""OpenAI's Responses, translated to and from chat completions."""

from __future__ import annotations

from lightning_plugin_gateway.wires.responses._responses import Responses

__all__ = ["Responses"]
