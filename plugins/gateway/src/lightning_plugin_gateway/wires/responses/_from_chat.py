"""Chat completion requests as native requests."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, as_text, given
from lightning_plugin_gateway.wires._reasoning import reasoning_of
from lightning_plugin_gateway.wires._refusals import (
    CHAT_NEUTRAL,
    Neutral,
    check_known,
    malformed,
    not_in_responses,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._formats import native_format
from lightning_plugin_gateway.wires.responses._parts import native_content
from lightning_plugin_gateway.wires.responses._to_chat import ALIKE, LOGPROBS
from lightning_plugin_gateway.wires.responses._tools import native_choice, native_tools

_TRANSLATED = (
    "logprobs", "max_completion_tokens", "max_tokens", "messages", "reasoning_effort", "response_format",
    "tool_choice", "tools", "top_logprobs", "verbosity",
)  # fmt: skip
_DROPPED = ("return_token_ids", "seed", "stream_options")
"""Fields that a model may ignore, or that are about what Responses say anyway."""
_NEUTRAL: Neutral = {**CHAT_NEUTRAL, "stop": ([],), "top_k": (0, -1)}
"""Fields that Responses do not have, with the values that ask for nothing."""


def native_request(chat: Body) -> Body:
    """The native request that asks the same; a seed is dropped. Raises `ApiError` 400."""
    _check_known(chat)
    request = given(chat, *ALIKE)
    request |= _input(chat.get("messages"))
    for name in ("max_completion_tokens", "max_tokens"):
        if chat.get(name) is not None:
            request.setdefault("max_output_tokens", chat[name])
    if chat.get("logprobs"):
        request |= {"include": [LOGPROBS], **given(chat, "top_logprobs")}
    if chat.get("tools") is not None:
        request["tools"] = native_tools(chat["tools"])
    if chat.get("tool_choice") is not None:
        request["tool_choice"] = native_choice(chat["tool_choice"])
    text = given(chat, "verbosity")
    if chat.get("response_format") is not None:
        text["format"] = native_format(chat["response_format"])
    if text:
        request["text"] = text
    if chat.get("reasoning_effort") is not None:
        request["reasoning"] = {"effort": chat["reasoning_effort"]}
    return request


def _check_known(chat: Body) -> None:
    known = (*ALIKE, *_TRANSLATED, *_DROPPED)
    check_known(chat, known=known, neutral=_NEUTRAL, refuse=not_in_responses)


def _input(messages: Json) -> Body:
    found = as_objects(messages)
    if not isinstance(messages, list) or len(found) != len(messages) or not found:
        raise malformed("`messages` must be a list of at least one message object", messages)
    instructions = found[0].get("content") if found[0].get("role") == "system" and len(found) > 1 else None
    rest = found[1:] if isinstance(instructions, str) and instructions else found
    items: list[Json] = []
    for place, message in enumerate(rest, start=len(found) - len(rest)):
        items += _items(message, place=place, where=f"`messages[{place}]`")
    return {"input": items} if rest is found else {"instructions": instructions, "input": items}


def _items(message: Body, *, place: int, where: str) -> list[Body]:
    role, content = message.get("role"), message.get("content")
    if role in ("system", "developer", "user"):
        return [
            {"type": "message", "role": role, "content": native_content(content, spoken=False, where=where)}
        ]
    if role == "tool":
        output = native_content(content, spoken=False, where=where)
        answered = _required(message, "tool_call_id", where=where)
        return [{"type": "function_call_output", "call_id": answered, "output": output}]
    if role == "assistant":
        return _turn(message, place=place, where=where)
    raise not_in_responses(f"the role {role!r:.40} of {where}")


def _turn(message: Body, *, place: int, where: str) -> list[Body]:
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            raise not_in_responses(f"`{name}` of {where}")
    items: list[Body] = []
    if thought := reasoning_of(message):
        part = {"type": "reasoning_text", "text": thought}
        items.append({"type": "reasoning", "id": f"rs_{place}", "summary": [], "content": [part]})
    calls = [_call(call, where=where) for call in as_objects(message.get("tool_calls"))]
    content, refusal = message.get("content"), as_text(message.get("refusal"))
    if content or refusal or (not calls and (content is not None or not items)):
        items.append(_said(content or "", refusal=refusal, place=place, where=where))
    return items + calls


def _said(content: Json, *, refusal: str, place: int, where: str) -> Body:
    said: Body = {"type": "message", "role": "assistant"}
    if isinstance(content, str) and not refusal:
        return {**said, "content": content}
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    parts = as_objects(native_content(content, spoken=True, where=where))
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    return {**said, "id": f"msg_{place}", "status": "completed", "content": parts}


def _call(call: Body, *, where: str) -> Body:
    if call.get("type", "function") != "function":
        raise not_in_responses(f"a tool call of type {call.get('type')!r:.40} in {where}")
    function = as_object(call.get("function"))
    said: Body = {name: _required(function, name, where=where) for name in ("name", "arguments")}
    return {"type": "function_call", "call_id": _required(call, "id", where=where), **said}


def _required(holder: Body, name: str, *, where: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise malformed(f"`{name}` in {where} must be a text", value)
    return value
