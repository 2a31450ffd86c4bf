"""A short way for messages and tools into the request's body.

The SDK walks both with their type annotations on every call, which is half of what a call costs, and changes nothing
in plain data: no parameter of a chat message or a tool has an alias or a format. Given as `extra_body` they go into
the body as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import openai

from agentlightning.types import Json

_LEAVES = frozenset({str, int, float, bool, type(None)})


def shortened(request: dict[str, object]) -> dict[str, object]:
    """The same request with messages and tools as `extra_body`; as it was where they are not plain data."""
    extra = request.get("extra_body")
    if not isinstance(request.get("messages"), list) or not isinstance(extra, Mapping | None):
        return request
    try:
        body = {
            name: _plain(request[name]) for name in ("messages", "tools") if type(request.get(name)) is list
        }
    except TypeError:
        return request
    short = {name: value for name, value in request.items() if name not in body}
    return {**short, "messages": [], "extra_body": {**body, **(extra or {})}}


def _plain(value: object) -> Json:
    """A copy as JSON data; the SDK's own models as it dumps them. Raises `TypeError` for everything else."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {_key(key): _plain(inner) for key, inner in value.items()}  # type: ignore[attr-defined]
    if kind is list:
        return [_plain(inner) for inner in value]  # type: ignore[attr-defined]
    if isinstance(value, openai.BaseModel):
        hidden = getattr(value, "__api_exclude__", None)
        return value.model_dump(exclude_unset=True, mode="json", exclude=hidden)
    raise TypeError


def _key(key: object) -> str:
    if type(key) is str:
        return key
    raise TypeError
