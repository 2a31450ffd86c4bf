"""`GET /v1/models`, in the form of whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._request import Body


def listing(names: Sequence[str], *, anthropic: bool) -> bytes:
    """The list of models."""
    data = [_model(name, anthropic=anthropic) for name in names]
    if not anthropic:
        return msgspec.json.encode({"object": "list", "data": data})
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return msgspec.json.encode({"data": data, "has_more": False, **ends})


def described(name: str, *, names: Sequence[str], anthropic: bool) -> bytes:
    """One model. Raises `ApiError` 404 if it is not among those that the caller may call."""
    if name not in names:
        known = ", ".join(map(repr, names)) or "none"
        raise ApiError(
            404, f"there is no model {name!r:.200}; there are {known}", fault="model_not_found", final=True
        )
    return msgspec.json.encode(_model(name, anthropic=anthropic))


def _model(name: str, *, anthropic: bool) -> Body:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}
