"""What the transport has to know of each wire: where it is asked, what an answer has, and how a stream ends."""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._request import Body

DONE = b"[DONE]"
COUNT = "count_tokens"
"""How tokens are counted by servers that speak `messages`; no wire for calls."""


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """One wire.

    Attributes:
        path: Below a base URL.
        key_header: How a key is sent; a Bearer token in `authorization`, bare in any other.
        headers: What else is sent.
        answer: What every whole answer has.
        answer_type: Of what type that is.
        last: Types of the events that end a stream, besides `[DONE]`.
    """

    path: str
    key_header: str = "authorization"
    headers: dict[str, str] = {}
    answer: str = "choices"
    answer_type: type[list[Json] | int] = list
    last: frozenset[str] = frozenset()

    def key_headers(self, key: str) -> dict[str, str]:
        """The header that carries a key; none without one."""
        if not key:
            return {}
        return {self.key_header: f"Bearer {key}" if self.key_header == "authorization" else key}

    def is_answer(self, body: object) -> bool:
        """Whether a decoded body is a whole answer."""
        return isinstance(body, dict) and isinstance(body.get(self.answer), self.answer_type)

    def is_event(self, body: object) -> bool:
        """Whether the decoded data of an event is one of this wire's, and tells of no error."""
        if not isinstance(body, dict) or body.get("type") == "error":
            return False
        if self.answer != "choices":
            return isinstance(body.get("type"), str)
        return not body.get("error") and isinstance(body.get("choices"), list | None)

    def is_last(self, event: Body) -> bool:
        """Whether an event ends its stream."""
        kind: Json = event.get("type")
        return isinstance(kind, str) and kind in self.last


PROTOCOLS = {
    "chat": Protocol(path="/chat/completions"),
    "completions": Protocol(path="/completions"),
    "embeddings": Protocol(path="/embeddings", answer="data"),
    "responses": Protocol(
        path="/responses",
        answer="output",
        last=frozenset({"response.completed", "response.incomplete", "response.failed"}),
    ),
    "messages": Protocol(
        path="/messages",
        key_header="x-api-key",
        headers={"anthropic-version": "2023-06-01"},
        answer="content",
        last=frozenset({"message_stop"}),
    ),
}
WIRES = tuple(PROTOCOLS)
"""The wires that an upstream may speak."""
PROTOCOLS[COUNT] = msgspec.structs.replace(
    PROTOCOLS["messages"], path="/messages/count_tokens", answer="input_tokens", answer_type=int
)
