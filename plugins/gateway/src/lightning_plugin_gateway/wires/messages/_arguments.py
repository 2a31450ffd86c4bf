"""Arguments of tool calls: a text in chat completions, an object in Messages.

A model may write arguments that are no JSON object, or one that no request can bring back. They become an object with
that text as its only member, and the text again on the way back, to the byte. An object that a model wrote in exactly
that shape is wrapped once more, so no two texts become the same object but those that are the same JSON.
"""

from __future__ import annotations

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway.wires._wire import Body

RAW = "_raw_arguments"
"""Name of the only member of arguments that cannot be an object: the text that the model wrote."""
_OPENING = '{"' + RAW + '":'
_DEEPEST = 48
"""Levels of an object that can be sent back: a request may have 64, and arguments are not at its top."""
_decoder = msgspec.json.Decoder(Body)


def input_of(arguments: str) -> Body:
    """The object of a call's arguments; none at all, or only white space, is an empty object."""
    if not arguments.strip():
        return {}
    found = _object(arguments)
    if found is None or _is_wrapped(found) or not _comes_back(found):
        return {RAW: arguments}
    return found


def input_text(arguments: str) -> str:
    """The text of `input_of`: what the model wrote, if that is an object."""
    found = input_of(arguments)
    if _is_wrapped(found):
        return msgspec.json.encode(found).decode()
    return arguments if arguments.strip() else "{}"


def arguments_of(given: Body) -> str:
    """The arguments that an object stands for."""
    return str(given[RAW]) if _is_wrapped(given) else msgspec.json.encode(given).decode()


def unwrapped(text: str) -> str:
    """The arguments that the text of an object stands for: itself, unless they were wrapped."""
    found = _object(text) if text.startswith(_OPENING) else None
    return text if found is None or not _is_wrapped(found) else arguments_of(found)


def may_be_wrapped(text: str) -> bool:
    """Whether the text of an object, or its beginning, could turn out to stand for other arguments."""
    return text.startswith(_OPENING) or _OPENING.startswith(text)


def _object(text: str) -> Body | None:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_wrapped(found: Body) -> bool:
    return len(found) == 1 and isinstance(found.get(RAW), str)


def _comes_back(found: Body) -> bool:
    """Whether a request can hold an object: it is not too deep, and has no NUL."""
    level: list[Json] = [found]
    for _ in range(_DEEPEST):
        inner = [child for node in level for child in _children(node)]
        if any(isinstance(child, str) and "\0" in child for child in inner):
            return False
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return True
    return False


def _children(node: Json) -> list[Json]:
    if isinstance(node, dict):
        return [*node, *node.values()]
    return node if isinstance(node, list) else []
