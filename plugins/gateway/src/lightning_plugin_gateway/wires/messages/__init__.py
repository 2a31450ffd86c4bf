"""Anthropic's Messages, translated to and from chat completions."""

from __future__ import annotations

from lightning_plugin_gateway.wires.messages._messages import Messages

__all__ = ["Messages"]
