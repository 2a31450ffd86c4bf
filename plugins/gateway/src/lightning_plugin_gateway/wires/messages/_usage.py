"""How many tokens a call took, in the words of both wires.

A prompt's tokens are all of them in chat completions, and those that no cache served or took in Messages.
"""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_count, as_object
from lightning_plugin_gateway.wires._wire import Body

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_TIERS = {"default": "standard", "priority": "priority"}


def native_usage(usage: Json, *, tier: Json = None) -> Body:
    """`usage` of an answer; zeros if the model's server does not say.

    Args:
        usage: Of a chat completion.
        tier: Its `service_tier`.
    """
    counts = as_object(usage)
    details = as_object(counts.get("prompt_tokens_details"))
    read, written = as_count(details.get("cached_tokens")), as_count(details.get("cache_write_tokens"))
    native: Body = {
        "input_tokens": max(0, as_count(counts.get("prompt_tokens")) - read - written),
        _WRITTEN: written,
        _READ: read,
        "output_tokens": as_count(counts.get("completion_tokens")),
    }
    thought = as_object(counts.get("completion_tokens_details")).get("reasoning_tokens")
    if thought is not None:
        native["output_tokens_details"] = {"thinking_tokens": as_count(thought)}
    if isinstance(tier, str) and tier in _TIERS:
        native["service_tier"] = _TIERS[tier]
    return native


def chat_usage(usage: Json) -> Body:
    """`usage` of a chat completion; empty if the answer does not say."""
    counts = as_object(usage)
    if not counts:
        return {}
    read, written = as_count(counts.get(_READ)), as_count(counts.get(_WRITTEN))
    asked, said = as_count(counts.get("input_tokens")) + read + written, as_count(counts.get("output_tokens"))
    chat: Body = {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    thought = as_object(counts.get("output_tokens_details")).get("thinking_tokens")
    if thought is not None:
        chat["completion_tokens_details"] = {"reasoning_tokens": as_count(thought)}
    return chat
