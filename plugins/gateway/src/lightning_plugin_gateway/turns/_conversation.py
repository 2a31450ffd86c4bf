"""Conversations by digest: equal ones have equal digests, however a client spells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from agentlightning.types import Json

_FRAME = ("tools", "tool_choice", "documents", "reasoning_effort", "prompt_token_ids")
"""Fields beside the messages that a prompt may depend on."""

_NAMES = ("role", "name", "tool_call_id")
_PLAIN = frozenset({"role", "content"})
_DIGEST_BYTES = 16
_sorted = msgspec.json.Encoder(order="sorted")
_in_order = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of a chat request, as a chain of digests.

    Two are equal if a chat template is given the same: content null is empty text, parts of text are one text,
    arguments of tool calls are compared by value with the order of their keys, fields that only clients read and
    reasoning, which most clients drop, are left out.

    Attributes:
        digests: For each message, of everything up to and including it; the model and the tools are in all of them.
        answers: For each message, its own digest if the assistant said it, else empty.
        text: Nothing but text is in it.
    """

    digests: tuple[bytes, ...]
    answers: tuple[bytes, ...]
    text: bool

    @classmethod
    def of(cls, request: Mapping[str, Json], *, model: str = "") -> Conversation:
        """The conversation of a chat request with the model of that name; time is linear in its size."""
        frame = {name: request[name] for name in _FRAME if request.get(name) not in (None, "auto", [])}
        frame["model"] = model
        digest = _digest(_sorted.encode(frame))
        digests, answers, text = [], [], True
        for message in _messages(request):
            own = _own_digest(message)
            digest = _digest(digest + own)
            digests.append(digest)
            answers.append(own if message.get("role") == "assistant" else b"")
            content = message.get("content")
            text = text and (isinstance(content, str) or _is_text(content))
        return cls(digests=tuple(digests), answers=tuple(answers), text=text)

    def answered(self, message: Mapping[str, Json]) -> tuple[bytes, bytes]:
        """Digests of this conversation with an answer to it, and of the answer alone."""
        own = _own_digest(message)
        return _digest(self.digests[-1] + own), own


def _messages(request: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    messages = request.get("messages")
    found = messages if isinstance(messages, list) else []
    return [message for message in found if isinstance(message, dict)]


def _own_digest(message: Mapping[str, Json]) -> bytes:
    content = message.get("content")
    if message.keys() == _PLAIN and isinstance(content, str):
        # most messages are so; the bytes are those that the lines below would make, in half the time
        return _digest(_sorted.encode(((message["role"] or "", "", ""), content, (), None)))
    calls = message.get("tool_calls")
    said: object = (
        [message.get(name) or "" for name in _NAMES],
        _content(content),
        [_call(call) for call in calls] if isinstance(calls, list) else [],
        message.get("function_call"),
    )
    return _digest(_sorted.encode(said))


def _content(content: Json) -> Json:
    if content is None:
        return ""
    if isinstance(content, list) and _is_text(content):
        return "".join(_part(part) for part in content)
    return content


def _part(part: Json) -> str:
    return part if isinstance(part, str) else str(part["text"]) if isinstance(part, dict) else ""


def _is_text(content: Json) -> bool:
    parts: Sequence[Json] = content if isinstance(content, list) else [content]
    return all(
        isinstance(part, str | None) or (isinstance(part, dict) and isinstance(part.get("text"), str))
        for part in parts
    )


def _call(call: Json) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    return [call.get("id"), function.get("name"), _by_value(function.get("arguments"))]


def _by_value(arguments: Json) -> str:
    """Arguments without the white space of their spelling, as they are if they are no JSON."""
    if not isinstance(arguments, str):
        return _in_order.encode(arguments).decode()
    try:
        return _in_order.encode(_decoder.decode(arguments or "{}")).decode()
    except (msgspec.DecodeError, RecursionError):
        return arguments


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()
