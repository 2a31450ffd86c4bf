"""The wire of OpenAI's Responses."""

from __future__ import annotations

from lightning_plugin_gateway.wires._narrow import as_object, as_objects, given
from lightning_plugin_gateway.wires._sse import openai_error
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._answer import identified_calls, native_answer
from lightning_plugin_gateway.wires.responses._chunks import ResponseChunks
from lightning_plugin_gateway.wires.responses._completion import chat_completion
from lightning_plugin_gateway.wires.responses._events import ResponseEvents, error_event
from lightning_plugin_gateway.wires.responses._from_chat import native_request
from lightning_plugin_gateway.wires.responses._ids import IDS
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

    parse = staticmethod(parsed)
    to_chat = staticmethod(chat_request)
    from_chat = staticmethod(native_request)
    answer = staticmethod(native_answer)
    completion = staticmethod(chat_completion)
    events = ResponseEvents
    chunks = ResponseChunks
    error = staticmethod(openai_error)
    error_event = staticmethod(error_event)

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
        calls = identified_calls(said, base=IDS.base(completion, request))
        message: Body = {"role": "assistant", "content": None, **given(said, *_KEPT)}
        return [*messages, {**message, "tool_calls": calls} if calls else message]
