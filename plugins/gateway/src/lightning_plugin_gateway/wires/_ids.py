"""Ids of answers, derived from those of chat completions: the same for a whole answer and a streamed one."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from lightning_plugin_gateway.wires._wire import Body

_CHAT = "chatcmpl-"


class AnswerIds(msgspec.Struct, frozen=True):
    """The ids of one wire's answers.

    Attributes:
        prefix: What they begin with, such as `msg_`.
    """

    prefix: str

    def base(self, completion: Body, request: Body) -> str:
        """What all ids of an answer have in common.

        Args:
            completion: A completion or its first chunk. If it has no id, its time and the request make one.
            request: The native request.
        """
        ident = completion.get("id")
        if isinstance(ident, str) and ident:
            return ident.removeprefix(_CHAT).removeprefix(self.prefix) or ident
        asked = msgspec.json.encode([completion.get("created"), request])
        return blake2b(asked, digest_size=16).hexdigest()

    def answer(self, base: str) -> str:
        """Id of an answer."""
        return self.prefix + base

    def completion(self, ident: str) -> str:
        """Id of the chat completion that says what an answer of that id says."""
        return _CHAT + ident.removeprefix(self.prefix) if ident else ""
