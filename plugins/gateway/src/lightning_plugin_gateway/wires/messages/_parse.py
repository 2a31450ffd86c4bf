"""Bodies of native requests, checked once."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway._request import check_flags, check_integer, check_model, parse_object
from lightning_plugin_gateway.wires._narrow import as_objects
from lightning_plugin_gateway.wires._refusals import malformed
from lightning_plugin_gateway.wires._wire import Body

_ROLES = ("user", "assistant", "system")
_OBJECTS = ("metadata", "output_config", "thinking", "tool_choice")


def parsed(raw: bytes) -> Body:
    """The native request of a body. Raises `ApiError` 400 with the reason."""
    body = parse_object(raw)
    check_model(body)
    check_flags(body, "stream")
    if body.get("max_tokens") is None:
        raise bad_request("`max_tokens` is missing; send the most tokens that the answer may have")
    check_integer(body, "max_tokens", most=2**31 - 1, least=1)
    check_integer(body, "top_k", most=2**31 - 1, least=-1)
    _check_messages(body.get("messages"))
    system = body.get("system")
    if not isinstance(system, str | None):
        _check_blocks(system, "`system`")
    for name in _OBJECTS:
        if not isinstance(body.get(name), dict | None):
            raise malformed(f"`{name}` must be an object", body[name])
    if body.get("tools") is not None and not _is_objects(body["tools"]):
        raise malformed("`tools` must be a list of objects", body["tools"])
    stops = body.get("stop_sequences")
    if stops is not None and not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
        raise malformed("`stop_sequences` must be a list of texts", stops)
    return body


def _check_messages(messages: Json) -> None:
    if not messages or not _is_objects(messages):
        raise malformed("`messages` must be a list of at least one message object", messages)
    for place, message in enumerate(as_objects(messages)):
        if message.get("role") not in _ROLES:
            raise malformed(
                f"the role of `messages[{place}]` must be one of {', '.join(_ROLES)}", message.get("role")
            )
        if not isinstance(message.get("content"), str):
            _check_blocks(message.get("content"), f"the content of `messages[{place}]`")


def _check_blocks(content: Json, what: str) -> None:
    typed = all(isinstance(block.get("type"), str) for block in as_objects(content))
    if not _is_objects(content) or not typed:
        raise malformed(f"{what} must be a text or a list of blocks, each with a type", content)


def _is_objects(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
