"""Failures in Anthropic's form."""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires import _failures

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "overloaded_error": 503,
    "timeout_error": 504,
}
"""Statuses of failures that an upstream tells of in a stream. That it does not let the gateway in is no client's."""


def error_body(error: ApiError) -> bytes:
    """The body of a failed answer."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream that has failed."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


def told(error: Json) -> ApiError:
    """The failure that an upstream tells of.

    Args:
        error: Its `type` and `message`.
    """
    return _failures.told(error, kind="type", statuses=_STATUSES, found=repr(error))
