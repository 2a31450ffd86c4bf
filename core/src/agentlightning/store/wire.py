"""The store over HTTP: one route per method, derived from the protocols, so that client and server cannot differ.

A call is `POST /api/<part>/<method>` with an object of the method's arguments by name, as msgpack
(`application/msgpack`) or JSON (`application/json`); the answer comes in the same encoding. Bytes are base64 text in
JSON. An error is a status from 400 on, and a body `{"error": {"type": …, "message": …}}`, where the type is the name
of the error in `agentlightning.errors` that the client raises again.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import msgspec

from agentlightning import errors
from agentlightning.credentials import Scope
from agentlightning.store._protocols import ResourceStore, RolloutStore, RunStore, SpanStore, Store
from agentlightning.types import ResourceRecord

__all__ = ["ERROR_STATUS", "JSON", "MSGPACK", "PATH_PREFIX", "ErrorBody", "Fault", "Route", "routes"]

PATH_PREFIX: Final = "/api/"
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of the store, on the wire.

    Attributes:
        part: `rollouts`, `spans`, `resources`, `runs`, or `store` for the store's own methods.
        request: Struct of the method's arguments, by name.
        response: Type of what the method returns.
        summary: First line of the method's documentation.
        scopes: Who may call it; `admin` always may.
        writes: It changes something.
    """

    part: str
    method: str
    request: type[msgspec.Struct]
    response: object
    summary: str
    scopes: frozenset[Scope]
    writes: bool

    @property
    def path(self) -> str:
        """Path of the URL."""
        return f"{PATH_PREFIX}{self.part}/{self.method}"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error on the wire."""

    type: str
    message: str


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every answer from status 400 on."""

    error: Fault


ERROR_STATUS: Final[Mapping[type[Exception], int]] = {
    errors.Unauthorised: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.IllegalTransition: 409,
    errors.LeaseLost: 409,
    errors.LimitExceeded: 413,
    errors.InvalidReward: 422,
    errors.StoreUnavailable: 503,
    ValueError: 400,
    TypeError: 400,
}
"""HTTP status of each error; the first class that fits decides."""

_PARTS: Final[Mapping[str, type]] = {
    "rollouts": RolloutStore,
    "spans": SpanStore,
    "resources": ResourceStore,
    "runs": RunStore,
    "store": Store,
}
_READS: Final = frozenset({Scope.VIEWER, Scope.TRAINER, Scope.REWARD})
_TRAINER: Final = frozenset({Scope.TRAINER})
_RUNNER: Final = frozenset({Scope.RUNNER, Scope.TRAINER})  # a trainer may run rollouts itself
_WRITES: Final[Mapping[str, frozenset[Scope]]] = {
    "rollouts/enqueue": _TRAINER,
    "rollouts/lease": _RUNNER,
    "rollouts/heartbeat": _RUNNER,
    "rollouts/finish": _RUNNER,
    "rollouts/cancel": _TRAINER,
    "spans/append": _RUNNER | {Scope.AGENT, Scope.REWARD},
    "resources/publish": _TRAINER,
    "resources/move": _TRAINER,
    "runs/create": _TRAINER,
    "runs/heartbeat": _TRAINER,
    "runs/update": _TRAINER,
    "runs/request_stop": _TRAINER,
    "runs/log": _TRAINER,
    "store/sweep": _TRAINER,
    "store/trim": frozenset(),
    "store/load": frozenset(),
}
"""Methods that change something, with their scopes; whatever is not here only reads."""
_ALSO_RUNNER: Final = frozenset({"rollouts/get", "resources/get", "resources/live"})
"""Reads that a runner needs."""
_REPLACED: Final[Mapping[tuple[str, str], object]] = {
    ("resources/publish", "resources"): dict[str, ResourceRecord],
}
"""Arguments that are wider in Python than on the wire."""


@cache
def routes() -> Mapping[str, Route]:
    """All routes by path."""
    found = [
        _route(part, name, method)
        for part, protocol in _PARTS.items()
        for name, method in vars(protocol).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    ]
    return {route.path: route for route in found}


def _route(part: str, name: str, method: object) -> Route:
    key = f"{part}/{name}"
    hints = typing.get_type_hints(method)
    signature = inspect.signature(typing.cast("typing.Callable[..., object]", method))
    fields = [
        _field(parameter, _REPLACED.get((key, parameter.name), hints[parameter.name]))
        for parameter in list(signature.parameters.values())[1:]
    ]
    writes = key in _WRITES
    reads = _READS | _RUNNER if key in _ALSO_RUNNER else _READS
    title = "".join(word.title() for word in (part, *name.split("_")))
    return Route(
        part=part,
        method=name,
        request=msgspec.defstruct(
            f"{title}Request", fields, frozen=True, kw_only=True, forbid_unknown_fields=True
        ),
        response=hints["return"],
        summary=(inspect.getdoc(method) or "").partition("\n")[0],
        scopes=_WRITES[key] if writes else reads,
        writes=writes,
    )


def _field(parameter: inspect.Parameter, hint: object) -> tuple[str, object] | tuple[str, object, object]:
    kind = _concrete(hint)
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, kind
    return parameter.name, kind, parameter.default


def _concrete(hint: object) -> object:
    """A type that can be decoded: tuples for sequences, dicts for mappings."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Sequence:
        return types.GenericAlias(tuple, (_concrete(arguments[0]), ...))
    if origin is Mapping:
        return types.GenericAlias(dict, (arguments[0], _concrete(arguments[1])))
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return typing.Union[tuple(_concrete(one) for one in arguments)]  # noqa: UP007 - built at run time
    return hint
