"""The wire of OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._answer import identified_calls, native_answer
from lightning_plugin_gateway.wires.responses._chunks import ResponseChunks
from lightning_plugin_gateway.wires.responses._completion import chat_completion
from lightning_plugin_gateway.wires.responses._events import ResponseEvents, error_event
from lightning_plugin_gateway.wires.responses._from_chat import native_request
from lightning_plugin_gateway.wires.responses._ids import base_id
from lightning_plugin_gateway.wires.responses._narrow import as_object, as_objects, given
from lightning_plugin_gateway.wires.responses._parse import parsed
from lightning_plugin_gateway.wires.responses._to_chat import chat_request, instructed

_KEPT = ("role", "content", "refusal", "reasoning_content", "reasoning")


class Responses:
    """See `Wire`.

    What only one side has is refused by name if it changes what is asked. Not told in translation: summaries of
    reasoning (its whole text is given), encrypted reasoning of other servers, details of files, names of authors,
    ids and states of items, annotations that are no links.
    """

    name = "responses"
    path = "/responses"

    @staticmethod
    def parse(raw: bytes) -> Body:
        """The request of a body. Raises `ApiError` 400 with the reason."""
        return parsed(raw)

    @staticmethod
    def to_chat(request: Body, *, before: Sequence[Body] = ()) -> Body:
        """The chat request that asks the same: instructions, then what comes before, then the input.

        Raises `ApiError` 400.
        """
        return chat_request(request, before=before)

    @staticmethod
    def from_chat(request: Body) -> Body:
        """The native request that asks the same; a seed is dropped. Raises `ApiError` 400."""
        return native_request(request)

    @staticmethod
    def answer(completion: Body, *, request: Body) -> Body:
        """The native answer: its first choice, as there cannot be more."""
        return native_answer(completion, request)

    @staticmethod
    def completion(answer: Body) -> Body:
        """The chat completion that says the same. Raises `ApiError` 502 if the answer failed or is none."""
        return chat_completion(answer)

    @staticmethod
    def events(request: Body) -> ResponseEvents:
        """A writer of events."""
        return ResponseEvents(request)

    @staticmethod
    def chunks() -> ResponseChunks:
        """A reader of events."""
        return ResponseChunks()

    @staticmethod
    def error(error: ApiError) -> bytes:
        """OpenAI's error form."""
        return error.body

    @staticmethod
    def error_event(error: ApiError) -> bytes:
        """An `error` event, which OpenAI's SDKs raise."""
        return error_event(error)

    @staticmethod
    def history(request: Body, chat: Body, completion: Body) -> list[Body]:
        """The chat messages that a later `previous_response_id` stands for.

        Args:
            request: The native request; its `instructions` are not for later ones.
            chat: The chat request that was made of it.
            completion: What was answered.
        """
        messages = as_objects(chat.get("messages"))
        if instructed(request) and messages and messages[0].get("role") == "system":
            messages = messages[1:]
        choices = as_objects(completion.get("choices"))
        said = as_object(choices[0].get("message")) if choices else {}
        calls = identified_calls(said, base=base_id(completion, request))
        message: Body = {"role": "assistant", "content": None, **given(said, *_KEPT)}
        return [*messages, {**message, "tool_calls": calls} if calls else message]
