"""What one of the two wires cannot say, and what is of the wrong shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError, bad_request
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._narrow import as_objects


def not_in_chat(what: str) -> ApiError:
    """A request that chat completions cannot say."""
    return bad_request(
        f"{what} cannot be asked of this model, which speaks chat completions only; leave it out"
    )


def not_in_messages(what: str) -> ApiError:
    """A chat completion request that Messages cannot say."""
    return bad_request(f"{what} cannot be asked of this model, which speaks Messages only; leave it out")


def malformed(what: str, value: Json) -> ApiError:
    """A request with something of the wrong shape in it."""
    return bad_request(f"{what}, not {value!r:.80}")


def required_text(body: Body, name: str, *, where: str) -> str:
    """A field that must be a text. Raises `ApiError` 400."""
    value = body.get(name)
    if not isinstance(value, str):
        raise malformed(f"`{name}` of {where} must be a text", value)
    return value


def required_objects(value: Json, what: str) -> list[Body]:
    """A list that must be of objects. Raises `ApiError` 400."""
    found = as_objects(value)
    if not isinstance(value, list) or len(found) != len(value):
        raise malformed(f"{what} must be a list of objects", value)
    return found


def is_neutral(name: str, value: Json, neutral: Mapping[str, Sequence[Json]]) -> bool:
    """Whether a field asks for nothing."""
    return value is None or value in neutral.get(name, ())
