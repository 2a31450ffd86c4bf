"""The wire of Anthropic's Messages."""

from __future__ import annotations

from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._answer import native_answer
from lightning_plugin_gateway.wires.messages._chunks import MessageChunks
from lightning_plugin_gateway.wires.messages._completion import chat_completion
from lightning_plugin_gateway.wires.messages._events import MessageEvents
from lightning_plugin_gateway.wires.messages._failures import error_body, error_event
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

    parse = staticmethod(parsed)
    to_chat = staticmethod(chat_request)
    from_chat = staticmethod(native_request)
    answer = staticmethod(native_answer)
    completion = staticmethod(chat_completion)
    events = MessageEvents
    chunks = MessageChunks
    error = staticmethod(error_body)
    error_event = staticmethod(error_event)

    @staticmethod
    def count_request(request: Body) -> Body:
        """The chat request whose prompt has the tokens that are to be counted. Raises `ApiError` 400."""
        chat = chat_request(request)
        return {name: chat[name] for name in _ABOUT_THE_PROMPT if name in chat}

    @staticmethod
    def count_answer(tokens: int) -> Body:
        """The answer to a request to count."""
        return {"input_tokens": tokens}
