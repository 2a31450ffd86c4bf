"""What can go wrong with a server behind a URL, told so that the client can act and learns no secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.upstreams._connection import ConnectionBroken, Unreachable

_TRANSIENT = frozenset({429, 502, 503, 504, 529})
_SICK = frozenset({500, 502, 503, 504})
_LONGEST_EXCERPT = 300
_LONGEST_SCANNED = 4096
_LONGEST_WAIT_S = 86_400.0
_ABOUT_THE_REQUEST = frozenset({400, 404, 413, 422})
_OWN = ("type", "param", "code")
_NAME = re.compile(r"[\w.\[\]-]{1,120}", re.ASCII)
_STATUS_OF_TYPE = {"invalid_request_error": 400, "not_found_error": 404, "request_too_large": 413}


class UpstreamFault(Exception):
    """A failed try.

    Attributes:
        error: What the client is told if there is no further try.
        transient: Another try may succeed.
        elsewhere: Another server may do better, at once.
        sick: It speaks against the server.
        wait_s: The upstream asked to wait that long, in seconds.
    """

    def __init__(
        self,
        error: ApiError,
        *,
        transient: bool = False,
        elsewhere: bool = False,
        sick: bool = True,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.transient = transient
        self.elsewhere = elsewhere
        self.sick = sick
        self.wait_s = wait_s


def broken(error: ConnectionBroken) -> UpstreamFault:
    """The connection could not be made, or broke."""
    if isinstance(error, Unreachable):
        message = "the upstream cannot be reached; check its base_url and that it is up"
        return _passing(ApiError(502, message, fault="upstream_unreachable"))
    message = f"the upstream closed the connection before the end of its answer ({error})"
    return _passing(ApiError(502, message, fault="upstream_closed"))


def silent(wait_s: float) -> UpstreamFault:
    """Nothing came for too long."""
    message = f"the upstream fell silent: not a byte in {wait_s:g} s"
    return UpstreamFault(ApiError(504, message, fault="timeout"))


def late() -> UpstreamFault:
    """The call's own time is up, which speaks against nobody."""
    return UpstreamFault(late_error(), sick=False)


def late_error() -> ApiError:
    """The call's own time is up."""
    return ApiError(504, "the upstream did not answer within the time that the call has", fault="timeout")


def answer_fault(raw: bytes, *, secrets: Iterable[str] = ()) -> UpstreamFault:
    """A 200 that is no answer of its wire: HTML, truncated JSON, an error."""
    told, status, own = _told(raw)
    if told:
        error = ApiError(
            status,
            f"the upstream failed: {_without(told, secrets)}",
            fault="upstream_error",
            final=status < 500,
            own=_passed_on(own, secrets) if status < 500 else {},
        )
        return UpstreamFault(error, sick=status >= 500)
    excerpt = _without(raw[:_LONGEST_SCANNED].decode("utf-8", "replace"), secrets)[:80]
    message = f"the upstream answered with something else than was asked for: {excerpt!r}"
    return UpstreamFault(ApiError(502, message, fault="invalid_answer"))


def status_fault(
    status: int, headers: Mapping[str, str], raw: bytes, *, secrets: Iterable[str] = ()
) -> UpstreamFault:
    """An answer with another status than 200; secrets are cut out of what it says."""
    kind = headers.get("content-type", "something").partition(";")[0]
    said, _, own = _told(raw)
    told = _without(said or f"{kind} of {len(raw)} bytes", secrets)
    if status in (401, 403):
        message = (
            f"the upstream refused the gateway's own key with {status}; check the variable that holds it"
        )
        return UpstreamFault(ApiError(502, message, fault="upstream_error", final=True), sick=False)
    if status < 400:
        message = f"the upstream answered {status}; redirects are not followed, correct its base_url"
        return UpstreamFault(ApiError(502, message, fault="upstream_error", final=True), sick=False)
    transient = status in _TRANSIENT
    wait_s = _wait_s(headers.get("retry-after", "")) if transient else 0.0
    error = ApiError(
        status,
        f"the upstream answered {status}: {told}",
        fault="upstream_error",
        retry_after=str(ceil(wait_s)) if wait_s else "",
        final=status in _ABOUT_THE_REQUEST,
        own=_passed_on(own, secrets) if status < 500 else {},
    )
    return UpstreamFault(
        error,
        transient=transient,
        elsewhere=transient or status == 500,
        sick=status in _SICK,
        wait_s=wait_s,
    )


def _passing(error: ApiError) -> UpstreamFault:
    return UpstreamFault(error, transient=True, elsewhere=True)


def _wait_s(retry_after: str) -> float:
    """`Retry-After` in seconds: a number of them, or a date; at most a day."""
    if retry_after.isdecimal():
        return min(float(retry_after), _LONGEST_WAIT_S)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST_WAIT_S)


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text[:_LONGEST_EXCERPT]


def _passed_on(own: Mapping[str, Json], secrets: Iterable[str]) -> dict[str, str]:
    """What agents tell errors about their requests apart by, such as the code `context_length_exceeded`."""
    known = [secret for secret in secrets if secret]
    return {
        name: value
        for name in _OWN
        if isinstance(value := own.get(name), str)
        and _NAME.fullmatch(value)
        and not any(secret in value for secret in known)
    }


def _told(raw: bytes) -> tuple[str, int, Mapping[str, Json]]:
    """The message of an error in OpenAI's, Anthropic's or FastAPI's form, or flat; its status; and the error."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", 502, {}
    if not isinstance(body, dict):
        return "", 502, {}
    error = body.get("error") or body
    if isinstance(error, str):
        return error, 502, {}
    if not isinstance(error, dict):
        return "", 502, {}
    message = error.get("message", error.get("detail"))
    if isinstance(message, list | dict):  # what is wrong with which field
        message = msgspec.json.encode(message).decode()
    return (message, _status(error), error) if isinstance(message, str) else ("", 502, {})


def _status(error: dict[str, Json]) -> int:
    code = error.get("code")
    found = code if isinstance(code, int) else _STATUS_OF_TYPE.get(str(error.get("type")), 502)
    return found if found in _ABOUT_THE_REQUEST else 502
