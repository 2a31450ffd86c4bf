"""OpenAI's embeddings: passed through. Nothing is sampled, so there is nothing to translate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway._request import check_model, parse_object
from lightning_plugin_gateway.wires._sse import openai_error, openai_error_event
from lightning_plugin_gateway.wires._wire import Body

__all__ = ["Embeddings"]

_MOST_INPUTS = 2048


class Embeddings:
    """See `Wire`."""

    name = "embeddings"
    path = "/embeddings"

    @staticmethod
    def parse(raw: bytes) -> Body:
        """The request of a body. Raises `ApiError` 400 with the reason."""
        body = parse_object(raw)
        check_model(body)
        given = body.get("input")
        if not isinstance(given, str | list) or not given:
            raise bad_request("`input` must be a text, token ids, or a list of these")
        if isinstance(given, list) and len(given) > _MOST_INPUTS and not isinstance(given[0], int):
            raise bad_request(f"`input` has {len(given)} texts; send at most {_MOST_INPUTS} at once")
        body.pop("stream", None)
        return body

    @staticmethod
    def to_chat(request: Body, *, before: Sequence[Body] = ()) -> NoReturn:
        """Not possible. Raises `ApiError` 400."""
        del before
        raise bad_request(
            f"model {request.get('model')!r:.200} has no embeddings: its upstream does not list the wire `embeddings`"
        )

    @staticmethod
    def from_chat(request: Body) -> NoReturn:
        """Not possible. Raises `ApiError` 400."""
        raise bad_request(f"model {request.get('model')!r:.200} serves embeddings only; it cannot chat")

    @staticmethod
    def answer(completion: Body, *, request: Body) -> Body:
        """The answer itself."""
        del request
        return completion

    @staticmethod
    def completion(answer: Body) -> Body:
        """A completion without choices: what it cost."""
        return {name: answer[name] for name in ("id", "model", "usage") if name in answer}

    @staticmethod
    def events(request: Body) -> NoReturn:
        """Embeddings are not streamed. Raises `ApiError` 400."""
        del request
        raise bad_request("embeddings are not streamed")

    @staticmethod
    def chunks() -> NoReturn:
        """Embeddings are not streamed. Raises `ApiError` 400."""
        raise bad_request("embeddings are not streamed")

    error = staticmethod(openai_error)
    error_event = staticmethod(openai_error_event)
