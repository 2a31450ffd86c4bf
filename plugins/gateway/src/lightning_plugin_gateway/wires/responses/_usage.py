"""How many tokens a call took, in the words of both wires."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_whole
from lightning_plugin_gateway.wires._wire import Body

_CACHED = ("cached_tokens", "cache_write_tokens")
_REASONED = ("reasoning_tokens",)


def native_usage(usage: Json) -> Json:
    """`usage` of an answer; null if the model's server does not say."""
    counts = as_object(usage)
    if not counts:
        return None
    asked, said = as_whole(counts.get("prompt_tokens")), as_whole(counts.get("completion_tokens"))
    return {
        "input_tokens": asked,
        "input_tokens_details": _details(counts.get("prompt_tokens_details"), _CACHED),
        "output_tokens": said,
        "output_tokens_details": _details(counts.get("completion_tokens_details"), _REASONED),
        "total_tokens": as_whole(counts.get("total_tokens")) or asked + said,
    }


def chat_usage(usage: Json) -> Body:
    """`usage` of a chat completion; empty if the answer does not say."""
    counts = as_object(usage)
    if not counts:
        return {}
    asked, said = as_whole(counts.get("input_tokens")), as_whole(counts.get("output_tokens"))
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": as_whole(counts.get("total_tokens")) or asked + said,
        "prompt_tokens_details": _details(counts.get("input_tokens_details"), _CACHED),
        "completion_tokens_details": _details(counts.get("output_tokens_details"), _REASONED),
    }


def _details(details: Json, names: tuple[str, ...]) -> Body:
    counts = as_object(details)
    return {name: as_whole(counts.get(name)) for name in names}
