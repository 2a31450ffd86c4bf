"""`/openapi.json`: the document of all endpoints, generated from what serves them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import msgspec

from agentlightning.store.wire import JSON, MSGPACK, ErrorBody, routes
from agentlightning.types import Json
from lightning_plugin_server._endpoint import Endpoint
from lightning_plugin_server._keys_api import KeyAnswer, KeyRequest
from lightning_plugin_server.otlp import otlp_contents

_REFUSALS = {
    "400": "The request cannot be used; the message says why.",
    "401": "No key, or one that is unknown or expired.",
    "403": "The key's scope does not reach that far.",
    "404": "There is no such thing.",
    "408": "The body came too slowly.",
    "409": "It conflicts with what is there.",
    "413": "It is larger than the store takes.",
    "415": "Another content type or encoding.",
    "422": "A reward that is no finite number.",
    "429": "Too many requests at once; try again after `Retry-After`.",
    "503": "The store is away, or the server stops; try again after `Retry-After`.",
}
_OTHER_BODIES: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "/api/keys": (KeyRequest, KeyAnswer)
}


def openapi(endpoints: Sequence[Endpoint]) -> bytes:
    """The OpenAPI 3.1 document, as JSON."""
    bodies: dict[str, tuple[object, object]] = {
        path: (route.request, route.response) for path, route in routes().items()
    }
    bodies.update(_OTHER_BODIES)
    kinds = [kind for pair in bodies.values() for kind in pair]
    schemas, components = msgspec.json.schema_components(
        [*kinds, ErrorBody], schema_hook=_any_json, ref_template="#/components/schemas/{name}"
    )
    requests = dict(zip(bodies, schemas[0::2], strict=False))
    answers = dict(zip(bodies, schemas[1::2], strict=False))
    paths: dict[str, dict[str, Json]] = {}
    others = otlp_contents()
    for endpoint in endpoints:
        contents = (
            _content(requests.get(endpoint.path)),
            _content(answers.get(endpoint.path)),
            {JSON: {"schema": schemas[-1]}},
        )
        operation = _operation(endpoint, *others.get(endpoint.path, contents))
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    document = {
        "openapi": "3.1.0",
        "info": {"title": "agentlightning", "version": version("lightning-plugin-server")},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
    return msgspec.json.encode(document)


def _any_json(kind: type) -> dict[str, Json]:
    if kind is object:
        return {"description": "any JSON value"}
    raise NotImplementedError(f"no schema for {kind!r}")


def _operation(
    endpoint: Endpoint, request: dict[str, Json], answer: dict[str, Json], refusal: dict[str, Json]
) -> dict[str, Json]:
    """One operation, with its bodies by media type."""
    operation: dict[str, Json] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method.lower()}{endpoint.path.replace('/', '_').replace('.', '_')}",
        "responses": {
            "200": {"description": "Done.", **({"content": answer} if answer else {})},
            **{status: {"description": text, "content": refusal} for status, text in _REFUSALS.items()},
        },
        "x-scopes": sorted(endpoint.scopes | ({"admin"} if not endpoint.public else set())),
    }
    if not endpoint.public:
        operation["security"] = [{"bearer": []}, {"key": []}]
    if request:
        operation["requestBody"] = {"required": True, "content": request}
    return operation


def _content(schema: Json) -> dict[str, Json]:
    return {} if schema is None else {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
