"""Results of tools: blocks of the user's turn in Messages, messages of their own in chat completions.

Chat completions do not know that a tool failed. A failed one's result is marked in its text, which the model then
sees and which is taken for the mark on the way back.
"""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._refusals import malformed, not_in_chat, required_text
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._parts import chat_content, native_content

_BEGIN, _END = "<error>", "</error>"
_BEGIN_PART: Body = {"type": "text", "text": _BEGIN}
_END_PART: Body = {"type": "text", "text": _END}


def chat_result(block: Body, *, where: str) -> Body:
    """The chat message of a `tool_result` block. Raises `ApiError` 400."""
    place = f"a tool result in {where}"
    if block.get("toolset_name") is not None:
        raise not_in_chat(f"`toolset_name` of {place}")
    failed = block.get("is_error")
    if not isinstance(failed, bool | None):
        raise malformed(f"`is_error` of {place} must be true or false", failed)
    said = block.get("content")
    content = "" if said is None else chat_content(said, where=place)
    call = required_text(block, "tool_use_id", where=place)
    return {"role": "tool", "tool_call_id": call, "content": _marked(content) if failed else content}


def native_result(message: Body, *, where: str) -> Body:
    """The `tool_result` block of a chat message. Raises `ApiError` 400."""
    said = message.get("content")
    content = native_content("" if said is None else said, where=where)
    plain, failed = _unmarked(content)
    call = required_text(message, "tool_call_id", where=where)
    block: Body = {"type": "tool_result", "tool_use_id": call, "content": plain}
    return {**block, "is_error": True} if failed else block


def _marked(content: Json) -> Json:
    if isinstance(content, list):
        return [_BEGIN_PART, *content, _END_PART]
    return f"{_BEGIN}{content}{_END}"


def _unmarked(content: Json) -> tuple[Json, bool]:
    if isinstance(content, str):
        marked = content.startswith(_BEGIN) and content.endswith(_END)
        return (content.removeprefix(_BEGIN).removesuffix(_END), True) if marked else (content, False)
    if (
        isinstance(content, list)
        and len(content) > 1
        and [content[0], content[-1]] == [_BEGIN_PART, _END_PART]
    ):
        return content[1:-1], True
    return content, False
