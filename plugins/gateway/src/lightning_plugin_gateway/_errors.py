"""Failures of a call, in the form that clients of the OpenAI wire understand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

Fault = Literal[
    "attempt_released",
    "bad_request",
    "body_too_large",
    "cancelled",
    "engine_error",
    "gateway_error",
    "invalid_answer",
    "invalid_key",
    "model_not_allowed",
    "model_not_found",
    "no_attempt",
    "not_found",
    "not_recorded",
    "paused",
    "timeout",
    "too_costly",
    "too_many_calls",
    "too_many_tokens",
    "unknown_response",
    "upstream_busy",
    "upstream_closed",
    "upstream_down",
    "upstream_error",
    "upstream_unreachable",
]
"""Class of a failure: the `code` of its error and the `error.type` of its span."""


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class ApiError(Exception):
    """A failure that is told to the client.

    Attributes:
        status: HTTP status.
        message: What was asked, what was found, and what to do next; never a credential.
        fault: Its class.
        retry_after: Value of `Retry-After`; empty for none.
        final: Trying again cannot help: SDKs are told not to.
        own: What the upstream's own error says beside its message, in OpenAI's form: any of `type`, `param`, `code`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        fault: Fault,
        retry_after: str = "",
        final: bool = False,
        own: Mapping[str, str] = _NOTHING,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fault: Fault = fault
        self.retry_after = retry_after
        self.final = final
        self.own = own

    @property
    def body(self) -> bytes:
        """OpenAI's error form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.fault, **self.own}
        return msgspec.json.encode({"error": error})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that steer an SDK's retries."""
        headers = [(b"retry-after", self.retry_after.encode())] if self.retry_after else []
        return [*headers, (b"x-should-retry", b"false")] if self.final else headers


def bad_request(message: str) -> ApiError:
    """A request that cannot be honoured, however often it is sent."""
    return ApiError(400, message, fault="bad_request", final=True)
