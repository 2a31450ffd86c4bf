"""Answers from status 400 on as the errors that the store behind the server raised."""

from __future__ import annotations

from typing import Final

import msgspec

from agentlightning import errors
from agentlightning.store.wire import ErrorBody

TRANSIENT: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses that may pass: the call is repeated."""

_LONGEST: Final = 4_000
_PLAIN: Final[dict[str, type[Exception]]] = {"ValueError": ValueError, "TypeError": TypeError}
_bodies = msgspec.json.Decoder(ErrorBody)


class StrangeAnswer(errors.ServerError):
    """Something answers there that is no agentlightning server, or one of another version."""


def error_of(status: int, body: bytes, *, url: str) -> Exception:
    """The error to raise for an answer."""
    try:
        fault = _bodies.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return StrangeAnswer(
            f"{url} answered {status} with something that no agentlightning server says; is it one, of this version?"
        )
    message = fault.message[:_LONGEST]
    kind = _PLAIN.get(fault.type) or getattr(errors, fault.type, None)
    if status == 404 and "/openapi.json" in message:
        return StrangeAnswer(f"the server at {url} is of another version: {message}")
    if kind is errors.Unauthorised:
        return errors.Unauthorised(f"{url}: {message}; set AGL_KEY to the server's key")
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return errors.ServerError(f"{url} answered {status}: {message}")
    return kind(message)
