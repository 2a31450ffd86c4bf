"""Ids of answers, derived from those of chat completions: the same for a whole answer and a streamed one."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway.wires._wire import Body

_CHAT, _MESSAGE = "chatcmpl-", "msg_"


def base_id(completion: Body, request: Body) -> str:
    """What all ids of an answer have in common.

    Args:
        completion: A completion or its first chunk. If it has no id, its time and the request make one.
        request: The native request.
    """
    ident = completion.get("id")
    if isinstance(ident, str) and ident:
        return ident.removeprefix(_CHAT).removeprefix(_MESSAGE) or ident
    asked = msgspec.json.encode([completion.get("created"), request])
    return blake2b(asked, digest_size=16).hexdigest()


def message_id(base: str) -> str:
    """Id of an answer."""
    return _MESSAGE + base


def completion_id(ident: str) -> str:
    """Id of the chat completion that says what an answer of that id says."""
    return _CHAT + ident.removeprefix(_MESSAGE) if ident else ""


def call_id(given: Json, *, base: str, place: int) -> str:
    """Id of a tool call: the one that the model's server gave, if it did."""
    return given if isinstance(given, str) and given else f"toolu_{base}_{place}"
