"""Answers that are passed on in the wire that they came by, without what the client did not ask for."""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._slim import Logprobs

_OURS = ("policy_version", "policy_versions", "prompt_token_ids", "prompt_logprobs", "token_ids")
_LAST = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})


class NativeView:
    """What a client gets to see of an answer in its own wire. Arguments stay as they are."""

    def __init__(self, request: Body) -> None:
        options = request.get("stream_options")
        self._ids = bool(request.get("return_token_ids"))
        self._logprobs = request.get("logprobs") is not None
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))

    def answer(self, answer: Body) -> Body:
        """A whole answer."""
        seen = answer if self._ids else {name: value for name, value in answer.items() if name not in _OURS}
        choices = seen.get("choices")
        return (
            {**seen, "choices": [self._choice(one) for one in choices]} if isinstance(choices, list) else seen
        )

    def event(self, event: Body) -> bytes:
        """The bytes of a streamed event; empty if nothing is left of it."""
        seen = self.answer(event)
        if "choices" in seen and not self._usage:
            seen = {name: value for name, value in seen.items() if name != "usage"}
            if not seen["choices"]:
                return b""
        kind = seen.get("type")
        name = f"event: {kind}\n".encode() if isinstance(kind, str) else b""
        return name + b"data: " + msgspec.json.encode(seen) + b"\n\n"

    def _choice(self, choice: Json) -> Json:
        if not isinstance(choice, dict):
            return choice
        seen = choice if self._ids else {name: value for name, value in choice.items() if name not in _OURS}
        found = seen.get("logprobs")
        if isinstance(found, Logprobs):
            return {**seen, "logprobs": found.raw if self._logprobs else None}
        return seen if self._logprobs or "logprobs" not in seen else {**seen, "logprobs": None}


def is_last(event: Body) -> bool:
    """Whether an event ends its stream: it is held back until the call is recorded."""
    return event.get("type") in _LAST
