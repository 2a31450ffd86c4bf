"""Input items as chat messages."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway.wires._narrow import as_text
from lightning_plugin_gateway.wires._reasoning import PARAGRAPH
from lightning_plugin_gateway.wires._refusals import malformed, not_in_chat
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._parts import chat_content, spoken_content
from lightning_plugin_gateway.wires.responses._reasoning import text_of_item

_ROLES = ("user", "system", "developer", "assistant")


def chat_messages(given_input: Json) -> list[Body]:
    """The chat messages that say what an `input` says. Raises `ApiError` 400."""
    if given_input is None:
        return []
    if isinstance(given_input, str):
        return [{"role": "user", "content": given_input}]
    if not isinstance(given_input, list):
        raise malformed("`input` must be a text or a list of items", given_input)
    conversation = _Conversation()
    for place, item in enumerate(given_input):
        if not isinstance(item, dict):
            raise malformed(f"`input[{place}]` must be an object", item)
        _add(conversation, item, where=f"`input[{place}]`")
    return conversation.messages()


def _add(conversation: _Conversation, item: Body, *, where: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind == "message":
        _add_message(conversation, item, where=where)
    elif kind == "reasoning":
        if text := text_of_item(item):
            conversation.reason(text)
    elif kind == "function_call":
        function: Body = {name: _required(item, name, where=where) for name in ("name", "arguments")}
        conversation.call(
            {"id": _required(item, "call_id", where=where), "type": "function", "function": function}
        )
    elif kind == "function_call_output":
        answered = _required(item, "call_id", where=where)
        content = chat_content(item.get("output"), where=where)
        conversation.hear({"role": "tool", "tool_call_id": answered, "content": content})
    elif kind == "item_reference":
        raise bad_request(
            f"{where} refers to an item by its id, which is not kept here; send the item itself"
        )
    else:
        raise not_in_chat(f"an item of type {kind!r:.40} ({where})")


def _add_message(conversation: _Conversation, item: Body, *, where: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise malformed(f"the role of {where} must be one of {', '.join(_ROLES)}", role)
    if role == "assistant":
        content, refusal = spoken_content(item.get("content"), where=where)
        conversation.say(content, refusal=refusal)
    else:
        conversation.hear({"role": role, "content": chat_content(item.get("content"), where=where)})


def _required(item: Body, name: str, *, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise malformed(f"`{name}` of {where} must be a text", value)
    return value


class _Conversation:
    """Messages in the making: items of one turn of the assistant become one message.

    A turn ends where somebody else speaks, and where text or reasoning follows text, unless calls came between: chat
    completions want the answers of calls right after the message that makes them.
    """

    def __init__(self) -> None:
        self._messages: list[Body] = []
        self._turn: Body = {}

    def messages(self) -> list[Body]:
        """All of them."""
        self._end_turn()
        return self._messages

    def hear(self, message: Body) -> None:
        """Somebody else speaks."""
        self._end_turn()
        self._messages.append(message)

    def reason(self, text: str) -> None:
        """The assistant thinks."""
        if self._has_spoken():
            self._end_turn()
        before = as_text(self._turn.get("reasoning_content"))
        self._turn["reasoning_content"] = before + PARAGRAPH + text if before else text

    def say(self, content: Json, *, refusal: str) -> None:
        """The assistant speaks."""
        if self._has_spoken():
            self._end_turn()
        self._turn["content"] = _joined(self._turn.get("content"), content)
        if refusal:
            self._turn["refusal"] = as_text(self._turn.get("refusal")) + refusal

    def call(self, call: Body) -> None:
        """The assistant calls a tool."""
        calls = self._turn.setdefault("tool_calls", [])
        if isinstance(calls, list):
            calls.append(call)

    def _has_spoken(self) -> bool:
        return "content" in self._turn and "tool_calls" not in self._turn

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, {}
        if turn:
            silent = "tool_calls" in turn or "refusal" in turn
            content = turn.get("content")
            if content is None and not silent:
                turn["content"] = ""
            self._messages.append({"role": "assistant", "content": None, **turn})


def _joined(first: Json, second: Json) -> Json:
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    return [*_as_parts(first), *_as_parts(second)]


def _as_parts(content: Json) -> list[Json]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]
