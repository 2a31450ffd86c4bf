"""Ids of answers, derived from those of chat completions: the same for a whole answer and a streamed one."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from lightning_plugin_gateway.wires._wire import Body

_CHAT, _RESPONSE = "chatcmpl-", "resp_"


def base_id(completion: Body, request: Body) -> str:
    """What all ids of an answer have in common.

    Args:
        completion: A completion or its first chunk. If it has no id, its time and the request make one.
    """
    ident = completion.get("id")
    if isinstance(ident, str) and ident:
        return ident.removeprefix(_CHAT).removeprefix(_RESPONSE) or ident
    asked = msgspec.json.encode([completion.get("created"), request])
    return blake2b(asked, digest_size=16).hexdigest()


def response_id(base: str) -> str:
    """Id of an answer."""
    return _RESPONSE + base


def completion_id(ident: str) -> str:
    """Id of the chat completion that says what an answer of that id says."""
    return _CHAT + ident.removeprefix(_RESPONSE) if ident else ""


def item_id(kind: str, base: str, *, place: int) -> str:
    """Id of the item at that place among those of its kind, `rs`, `msg` or `fc`."""
    return f"{kind}_{base}_{place}" if place else f"{kind}_{base}"


def call_id(base: str, *, place: int) -> str:
    """Id of a tool call that the model's server gave none."""
    return item_id("call", base, place=place)
