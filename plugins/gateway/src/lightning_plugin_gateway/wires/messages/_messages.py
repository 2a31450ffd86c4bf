"""The wire of Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages import _failures
from lightning_plugin_gateway.wires.messages._answer import native_answer
from lightning_plugin_gateway.wires.messages._chunks import MessageChunks
from lightning_plugin_gateway.wires.messages._completion import chat_completion
from lightning_plugin_gateway.wires.messages._events import MessageEvents
from lightning_plugin_gateway.wires.messages._from_chat import native_request
from lightning_plugin_gateway.wires.messages._parse import parsed
from lightning_plugin_gateway.wires.messages._to_chat import chat_request

_ABOUT_THE_PROMPT = (
    "add_generation_prompt", "continue_final_message", "messages", "model", "parallel_tool_calls", "reasoning_effort",
    "response_format", "tool_choice", "tools",
)  # fmt: skip


class Messages:
    """See `Wire`.

    What only one side has is refused by name if it changes what is asked. Not told in translation: caching, citations
    of texts, the order of texts and calls within one turn of the assistant's, reasoning that another server has
    hidden or signed, a chat request's seed, names of authors, and details of images.

    Arguments of a tool call that are no JSON object, as a small model may write them, are answered as an `input` of
    one member, `_raw_arguments`, and are that text again when the call comes back.
    """

    name = "messages"
    path = "/messages"

    @staticmethod
    def parse(raw: bytes) -> Body:
        """The request of a body. Raises `ApiError` 400 with the reason."""
        return parsed(raw)

    @staticmethod
    def to_chat(request: Body, *, before: Sequence[Body] = ()) -> Body:
        """The chat request that asks the same: the system prompt, then what comes before, then the messages.

        Raises `ApiError` 400.
        """
        return chat_request(request, before=before)

    @staticmethod
    def from_chat(request: Body) -> Body:
        """The native request that asks the same. Raises `ApiError` 400."""
        return native_request(request)

    @staticmethod
    def answer(completion: Body, *, request: Body) -> Body:
        """The native answer: its first choice, as there cannot be more.

        Raises `ApiError` 502 if the model's server gave up.
        """
        return native_answer(completion, request)

    @staticmethod
    def completion(answer: Body) -> Body:
        """The chat completion that says the same. Raises `ApiError` 502 if the answer is none."""
        return chat_completion(answer)

    @staticmethod
    def events(request: Body) -> MessageEvents:
        """A writer of events."""
        return MessageEvents(request)

    @staticmethod
    def chunks() -> MessageChunks:
        """A reader of events."""
        return MessageChunks()

    @staticmethod
    def error(error: ApiError) -> bytes:
        """Anthropic's error form."""
        return _failures.error_body(error)

    @staticmethod
    def error_event(error: ApiError) -> bytes:
        """An `error` event, which Anthropic's SDKs raise."""
        return _failures.error_event(error)

    @staticmethod
    def count_request(request: Body) -> Body:
        """The chat request whose prompt has the tokens that are to be counted. Raises `ApiError` 400."""
        chat = chat_request(request, before=())
        return {name: chat[name] for name in _ABOUT_THE_PROMPT if name in chat}

    @staticmethod
    def count_answer(tokens: int) -> Body:
        """The answer to a request to count."""
        return {"input_tokens": tokens}
