"""Which endpoint a path means, and which attempt it names."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

import msgspec

from lightning_plugin_gateway._errors import ApiError

Endpoint = Literal["chat", "models", "health"]

_ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/chat/completions"): "chat",
    ("GET", "/v1/models"): "models",
}
_ATTEMPT_PARTS = 5  # "", "r", rollout, attempt, rest


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A request's target.

    Attributes:
        rollout: Rollout named by the path; None for a path that names none.
        credential: Attempt or key named by the path, likewise.
    """

    endpoint: Endpoint
    rollout: str | None = None
    credential: str | None = None


_PLAIN = {key: Route(endpoint=endpoint) for key, endpoint in _ENDPOINTS.items()}
_PLAIN["GET", "/healthz"] = Route(endpoint="health")


def find_route(method: str, raw_path: str) -> Route:
    """The route of an undecoded path.

    Agents that can only be given a URL get `/r/{rollout}/{key}/v1`; with a key of its own in a header,
    `/r/{rollout}/{attempt}/v1` says the same and is checked against the key.

    Raises:
        ApiError: 404, there is nothing at that path.
    """
    if route := _PLAIN.get((method, raw_path)):
        return route
    parts = raw_path.split("/", _ATTEMPT_PARTS - 1)
    if len(parts) == _ATTEMPT_PARTS and parts[:2] == ["", "r"]:
        endpoint = _ENDPOINTS.get((method, "/" + parts[4]))
        if endpoint:
            return Route(endpoint=endpoint, rollout=unquote(parts[2]), credential=unquote(parts[3]))
    served = "POST /v1/chat/completions and GET /v1/models, bare or under /r/{rollout}/{attempt}"
    raise ApiError(
        404, f"there is no such endpoint; this gateway serves {served}", fault="not_found", final=True
    )
