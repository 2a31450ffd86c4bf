"""What one of two wires cannot say, and what is of the wrong shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError, bad_request
from lightning_plugin_gateway.wires._narrow import as_object, as_objects
from lightning_plugin_gateway.wires._wire import Body

Refuse = Callable[[str], ApiError]
Neutral = Mapping[str, Sequence[Json]]
"""Values of fields that ask for nothing."""
CHAT_NEUTRAL: Final[Neutral] = {
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
}
"""Of fields that only chat completions have."""


def not_in_chat(what: str) -> ApiError:
    """A request that chat completions cannot say."""
    return _not_in(what, "chat completions")


def not_in_messages(what: str) -> ApiError:
    """A chat completion request that Messages cannot say."""
    return _not_in(what, "Messages")


def not_in_responses(what: str) -> ApiError:
    """A chat completion request that Responses cannot say."""
    return _not_in(what, "Responses")


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


def known_fields(value: Json, name: str, known: Collection[str]) -> Body:
    """The fields of an object of a native request, which chat completions must have. Raises `ApiError` 400."""
    if not isinstance(value, dict | None):
        raise malformed(f"`{name}` must be an object", value)
    for field, asked in (value or {}).items():
        if field not in known and asked is not None:
            raise not_in_chat(f"`{name}.{field:.40}`")
    return as_object(value)


def check_known(request: Body, *, known: Collection[str], neutral: Neutral, refuse: Refuse) -> None:
    """Raises `ApiError` 400 for a field that is not known, unless it asks for nothing.

    Args:
        refuse: Makes the error of a field in backticks.
    """
    for name, value in request.items():
        if name not in known and not is_neutral(name, value, neutral):
            raise refuse(f"`{name:.40}`")


def is_neutral(name: str, value: Json, neutral: Neutral) -> bool:
    """Whether a field asks for nothing."""
    return value is None or value in neutral.get(name, ())


def _not_in(what: str, spoken: str) -> ApiError:
    return bad_request(f"{what} cannot be asked of this model, which speaks {spoken} only; leave it out")
