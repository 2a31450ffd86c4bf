"""Bodies of native requests, checked once."""

from __future__ import annotations

from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway._request import (
    MOST_TOP_LOGPROBS,
    check_flags,
    check_integer,
    check_model,
    parse_object,
)
from lightning_plugin_gateway.wires._refusals import malformed
from lightning_plugin_gateway.wires._wire import Body

_INSTEAD_OF_INPUT = ("conversation", "previous_response_id", "prompt")
_TEXTS = ("instructions", "previous_response_id")
_OBJECTS = ("metadata", "reasoning", "stream_options", "text")
_LISTS = {"include": str, "tools": dict}


def parsed(raw: bytes) -> Body:
    """The native request of a body. Raises `ApiError` 400 with the reason."""
    body = parse_object(raw)
    check_model(body)
    check_flags(body, "background", "parallel_tool_calls", "store", "stream")
    check_integer(body, "max_output_tokens", most=2**31 - 1, least=1)
    check_integer(body, "top_logprobs", most=MOST_TOP_LOGPROBS)
    check_integer(body, "n", most=1, least=1)
    _check_input(body)
    for name in _TEXTS:
        if not isinstance(body.get(name), str | None):
            raise malformed(f"`{name}` must be a text", body[name])
    for name in _OBJECTS:
        if not isinstance(body.get(name), dict | None):
            raise malformed(f"`{name}` must be an object", body[name])
    for name, kind in _LISTS.items():
        listed = body.get(name)
        if listed is not None and not (
            isinstance(listed, list) and all(isinstance(one, kind) for one in listed)
        ):
            what = "texts" if kind is str else "objects"
            raise malformed(f"`{name}` must be a list of {what}", listed)
    return body


def _check_input(body: Body) -> None:
    asked = body.get("input")
    if asked is None and all(body.get(name) is None for name in _INSTEAD_OF_INPUT):
        raise bad_request("`input` is missing; send a text or a list of items")
    items = asked if isinstance(asked, list) else []
    if not isinstance(asked, str | list | None) or not all(isinstance(item, dict) for item in items):
        raise malformed("`input` must be a text or a list of items", asked)
