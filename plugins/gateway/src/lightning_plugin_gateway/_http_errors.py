"""What can go wrong with an upstream behind a URL, told so that the client can act and learns no secret."""

from __future__ import annotations

import aiohttp
import msgspec

from lightning_plugin_gateway._errors import ApiError

_TRANSIENT = (429, 502, 503)
_LONGEST_EXCERPT = 300


class UpstreamFault(Exception):
    """A failed try.

    Attributes:
        error: What the client is told if there is no further try.
        transient: Another try may succeed.
        wait_s: The upstream asked to wait that long, in seconds.
    """

    def __init__(self, error: ApiError, *, transient: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.transient = transient
        self.wait_s = wait_s


def broken(error: aiohttp.ClientError | TimeoutError) -> UpstreamFault:
    """The connection could not be made, broke, or fell silent."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        message = "the upstream cannot be reached; check its base_url and that it is up"
        return UpstreamFault(ApiError(502, message, fault="upstream_unreachable"), transient=True)
    if isinstance(error, TimeoutError):
        return UpstreamFault(ApiError(504, "the upstream fell silent", fault="timeout"))
    message = f"the upstream closed the connection before the end of its answer ({type(error).__name__})"
    return UpstreamFault(ApiError(502, message, fault="upstream_closed"), transient=True)


def answer_fault(raw: bytes) -> UpstreamFault:
    """An answer that is no completion: HTML, truncated JSON, an error in a 200."""
    if told := _told(raw):
        return UpstreamFault(ApiError(502, f"the upstream failed: {told}", fault="upstream_error"))
    excerpt = raw[:80].decode("utf-8", "replace")
    message = f"the upstream answered with something else than a chat completion: {excerpt!r}"
    return UpstreamFault(ApiError(502, message, fault="invalid_answer"))


def status_fault(response: aiohttp.ClientResponse, raw: bytes, *, key: str) -> UpstreamFault:
    """An answer with another status than 200; the upstream's key is cut out of what it says."""
    status = response.status
    told = _told(raw) or f"{response.content_type} of {len(raw)} bytes"
    if key:
        told = told.replace(key, "***")
    if status in (401, 403):
        message = (
            f"the upstream refused the gateway's own key with {status}; check the variable that holds it"
        )
        return UpstreamFault(ApiError(502, message, fault="upstream_error", final=True))
    if status < 400:
        message = f"the upstream answered {status}; redirects are not followed, correct its base_url"
        return UpstreamFault(ApiError(502, message, fault="upstream_error", final=True))
    retry_after = response.headers.get("Retry-After", "") if status in _TRANSIENT else ""
    wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
    message = f"the upstream answered {status}: {told}"
    error = ApiError(status, message, fault="upstream_error", retry_after=retry_after if wait_s else "")
    return UpstreamFault(error, transient=status in _TRANSIENT, wait_s=wait_s)


def _told(raw: bytes) -> str:
    """The message of an error in OpenAI's form, or in the flat form that some servers use."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message[:_LONGEST_EXCERPT] if isinstance(message, str) else ""
