"""Refusals: an answer from status 400 on, as an exception."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentlightning import errors
from agentlightning.store.wire import ERROR_STATUS, ErrorBody, Fault


class Refusal(Exception):
    """What the client is told instead of an answer.

    Attributes:
        status: HTTP status, from 400 on.
        kind: Name of the error that the client should raise.
        headers: Further headers, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or _KINDS.get(status, "ServerError")
        self.headers = headers

    def without(self, secret: str) -> Refusal:
        """The refusal with a secret blanked out, should its message repeat it."""
        message = str(self)
        if not secret or secret not in message:
            return self
        return Refusal(self.status, message.replace(secret, "…"), kind=self.kind, headers=self.headers)

    @property
    def body(self) -> bytes:
        """The answer's body, as JSON."""
        return msgspec.json.encode(ErrorBody(error=Fault(type=self.kind, message=str(self))))


_KINDS = {
    400: "ValueError",
    401: "Unauthorised",
    403: "Forbidden",
    404: "NotFound",
    408: "StoreUnavailable",
    413: "LimitExceeded",
    429: "StoreUnavailable",
    431: "LimitExceeded",
    503: "StoreUnavailable",
}
RETRY_SOON = ((b"retry-after", b"1"),)


def refusal_of(error: Exception) -> Refusal | None:
    """The refusal that says what an error says; None for an error that is the server's own fault."""
    for kind, status in ERROR_STATUS.items():
        if isinstance(error, kind):
            headers = RETRY_SOON if isinstance(error, errors.StoreUnavailable) else ()
            return Refusal(status, str(error), kind=_name(type(error), kind), headers=headers)
    return None


def _name(found: type[Exception], known: type[Exception]) -> str:
    return found.__name__ if found.__name__ in errors.__all__ else known.__name__
