"""Which endpoint a path means, and which attempt it names."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

import msgspec

from lightning_plugin_gateway._errors import ApiError

Endpoint = Literal["call", "count", "models", "model", "health"]

_WIRES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_COUNT = "/v1/messages/count_tokens"
_MODELS = "/v1/models"
_ATTEMPT_PARTS = 5  # "", "r", rollout, attempt, rest


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A request's target.

    Attributes:
        wire: Whose error form the client reads; for calls also what they are made in.
        model: Model named by the path; empty for a path that names none.
        rollout: Rollout named by the path; None for a path that names none.
        credential: Attempt or key named by the path, likewise.
    """

    endpoint: Endpoint
    wire: str = "chat"
    model: str = ""
    rollout: str | None = None
    credential: str | None = None


_PLAIN = {("POST", path): Route(endpoint="call", wire=wire) for path, wire in _WIRES.items()}
_PLAIN["POST", _COUNT] = Route(endpoint="count", wire="messages")
_PLAIN["GET", _MODELS] = Route(endpoint="models")
_HEALTH = Route(endpoint="health")

ROUTES = [*_PLAIN, ("GET", _MODELS + "/{model}")]
"""Method and path of every endpoint that asks for a key; each also lies under `/r/{rollout}/{attempt}`."""


def find_route(method: str, raw_path: str) -> Route:
    """The route of an undecoded path.

    Agents that can only be given a URL get `/r/{rollout}/{key}/v1`; with a key of its own in a header,
    `/r/{rollout}/{attempt}/v1` says the same and is checked against the key.

    Raises:
        ApiError: 404, there is nothing at that path.
    """
    if route := _PLAIN.get((method, raw_path)) or _model(method, raw_path):
        return route
    if (method, raw_path) == ("GET", "/healthz"):
        return _HEALTH
    parts = raw_path.split("/", _ATTEMPT_PARTS - 1)
    if len(parts) == _ATTEMPT_PARTS and parts[:2] == ["", "r"]:
        rest = "/" + parts[4]
        if route := _PLAIN.get((method, rest)) or _model(method, rest):
            rollout, credential = unquote(parts[2]), unquote(parts[3])
            return msgspec.structs.replace(route, rollout=rollout, credential=credential)
    served = (
        ", ".join([*_WIRES, _COUNT])
        + f" (POST) and {_MODELS} (GET), bare or under /r/{{rollout}}/{{attempt}}"
    )
    raise ApiError(
        404, f"there is no such endpoint; this gateway serves {served}", fault="not_found", final=True
    )


def _model(method: str, path: str) -> Route | None:
    name = unquote(path.removeprefix(_MODELS + "/")) if path.startswith(_MODELS + "/") else ""
    return Route(endpoint="model", model=name) if method == "GET" and name else None
