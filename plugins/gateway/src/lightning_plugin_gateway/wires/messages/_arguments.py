"""Arguments of tool calls: a text in chat completions, an object in Messages.

A model may write arguments that are no JSON object. They become an object with that text as its only member, and the
text again on the way back, to the byte. An object that a model wrote in exactly that shape is wrapped once more, so
no two texts become the same object but those that are the same JSON.
"""

from __future__ import annotations

import msgspec

from lightning_plugin_gateway.wires._wire import Body

UNREADABLE = "_invalid_json"
"""Name of the only member of arguments that are no JSON object: the text that the model wrote."""
_OPENING = '{"' + UNREADABLE + '":'
_decoder = msgspec.json.Decoder(Body)


def input_of(arguments: str) -> Body:
    """The object of a call's arguments; none at all, or only white space, is an empty object."""
    if not arguments.strip():
        return {}
    found = _object(arguments)
    return {UNREADABLE: arguments} if found is None or _is_wrapped(found) else found


def input_text(arguments: str) -> str:
    """The text of `input_of`: what the model wrote, if that is an object."""
    found = input_of(arguments)
    if _is_wrapped(found):
        return msgspec.json.encode(found).decode()
    return arguments if arguments.strip() else "{}"


def arguments_of(given: Body) -> str:
    """The arguments that an object stands for."""
    raw = given.get(UNREADABLE)
    return raw if isinstance(raw, str) and len(given) == 1 else msgspec.json.encode(given).decode()


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
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _is_wrapped(found: Body) -> bool:
    return len(found) == 1 and isinstance(found.get(UNREADABLE), str)
