"""OpenAI's chat completions: the form in which every call is recorded, so nothing is translated."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway._request import (
    MOST_CHOICES,
    MOST_TOP_LOGPROBS,
    check_flags,
    check_integer,
    check_model,
    parse_object,
)
from lightning_plugin_gateway._view import ClientView
from lightning_plugin_gateway.wires._narrow import as_object, as_objects
from lightning_plugin_gateway.wires._sse import DONE, data_event, openai_error, openai_error_event
from lightning_plugin_gateway.wires._wire import Body

__all__ = ["Chat", "DataEvents"]


class Chat:
    """See `Wire`. What a client did not ask for is removed on the way to it."""

    name = "chat"
    path = "/chat/completions"

    @staticmethod
    def parse(raw: bytes) -> Body:
        """The request of a body. Raises `ApiError` 400 with the reason."""
        body = parse_object(raw)
        check_model(body)
        messages = body.get("messages")
        if (
            not isinstance(messages, list)
            or not messages
            or not all(isinstance(message, dict) for message in messages)
        ):
            raise bad_request("`messages` must be a list of at least one message object")
        check_integer(body, "n", most=MOST_CHOICES, least=1)
        check_integer(body, "top_logprobs", most=MOST_TOP_LOGPROBS)
        for name in ("max_tokens", "max_completion_tokens"):
            check_integer(body, name, most=2**31 - 1, least=1)
        check_flags(body, "stream", "logprobs", "return_token_ids")
        if not isinstance(body.get("stream_options"), dict | None):
            raise bad_request("`stream_options` must be an object")
        return body

    @staticmethod
    def to_chat(request: Body, *, before: Sequence[Body] = ()) -> Body:
        """The request itself, after the messages that come before."""
        messages = request["messages"]
        if not before or not isinstance(messages, list):
            return request
        return {**request, "messages": [*before, *messages]}

    @staticmethod
    def from_chat(request: Body) -> Body:
        """The request itself."""
        return request

    @staticmethod
    def answer(completion: Body, *, request: Body) -> Body:
        """The completion, as much of it as was asked for."""
        return ClientView(request).completion(completion)

    @staticmethod
    def completion(answer: Body) -> Body:
        """The answer itself."""
        return answer

    @staticmethod
    def events(request: Body) -> DataEvents:
        """A writer that passes chunks on, as much of them as was asked for."""
        return DataEvents(ClientView(request))

    @staticmethod
    def chunks() -> ChatChunks:
        """A reader that passes chunks on."""
        return ChatChunks()

    error = staticmethod(openai_error)
    error_event = staticmethod(openai_error_event)


class DataEvents:
    """Chunks as events with nothing but data, ended by `[DONE]`."""

    def __init__(self, view: ClientView) -> None:
        self._view = view

    def add(self, chunk: Body) -> bytes:
        """The event of a chunk, unless nothing is left of it."""
        seen = self._view.chunk(chunk)
        return b"" if seen is None else data_event(seen)

    @staticmethod
    def end() -> bytes:
        """`[DONE]`."""
        return DONE


class ChatChunks:
    """See `ChunkReader`."""

    def __init__(self) -> None:
        self._places: dict[int, _CallPlaces] = {}

    def add(self, event: Body) -> list[Body]:
        """The chunk itself."""
        choices = event.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if isinstance(delta, dict) and delta.get("tool_calls"):
                index = choice.get("index")
                known = self._places.setdefault(index if isinstance(index, int) else place, _CallPlaces())
                for call in as_objects(delta["tool_calls"]):
                    known.put(call)
        return [event]


class _CallPlaces:
    """Where the tool calls of a choice stand: some servers leave out their `index`, or say 0 for each."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int | None, str], int] = {}
        self._last: dict[int | None, int] = {}

    def put(self, call: Body) -> None:
        """Corrects the index of a call, or of a fragment of one, if another call has it."""
        index, ident = call.get("index"), call.get("id")
        said = index if isinstance(index, int) else None
        if isinstance(ident, str) and ident and as_object(call.get("function")).get("name"):
            self._last[said] = self._begun.setdefault((said, ident), self._free(said))
        found = self._last.get(said, said)
        if found is not None and found != index:
            call["index"] = found

    def _free(self, said: int | None) -> int:
        taken = self._begun.values()
        return said if said is not None and said not in taken else max(taken, default=-1) + 1
