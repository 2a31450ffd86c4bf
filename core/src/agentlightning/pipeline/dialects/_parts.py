"""Messages in the form of the OpenTelemetry GenAI conventions, a role and its parts, from those of chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentlightning.pipeline.dialects._meaning import decoded, mapping, mappings, text
from agentlightning.types import Json

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
    "model": "assistant",
}
_TEXTS: Final = frozenset({"text", "input_text", "output_text", "refusal"})
_BLOCKS: Final = _TEXTS | {
    "image_url",
    "input_image",
    "image",
    "input_audio",
    "file",
    "tool_use",
    "tool_result",
}


def message(
    role: Json,
    content: Json,
    *,
    calls: list[Json] | None = None,
    answers: Json = None,
    reasoning: Json = None,
    finish_reason: Json = None,
) -> Json:
    """A message.

    Args:
        role: Who speaks, in any dialect's word.
        content: Text, or a list of blocks as chat completions have them.
        calls: Parts made by `tool_call`.
        answers: Id of the tool call that it answers.
        reasoning: What the model thought before.
        finish_reason: Why an answer ended.
    """
    spoken = _ROLES.get(str(role).lower(), str(role or "user").lower())
    if spoken == "tool":
        parts: list[Json] = [tool_response(answers, content)]
    else:
        thought: list[Json] = [{"type": "reasoning", "content": reasoning}] if text(reasoning) else []
        parts = [*thought, *content_parts(content), *(calls or ())]
    found: dict[str, Json] = {"role": spoken, "parts": parts}
    return found | {"finish_reason": finish_reason} if finish_reason else found


def content_parts(content: Json) -> list[Json]:
    """The parts of a content: of text one, of blocks one each."""
    if content in (None, "", []):
        return []
    if blocks := _blocks(content):
        return [_part(block) for block in blocks]
    return [{"type": "text", "content": content}]


def tool_call(*, name: Json, arguments: Json, ident: Json = None) -> Json:
    """A part that calls a tool; arguments stay the text that the model wrote."""
    return {"type": "tool_call", "id": ident, "name": name, "arguments": arguments}


def tool_response(ident: Json, response: Json) -> Json:
    """A part that answers a tool call."""
    return {"type": "tool_call_response", "id": ident, "response": response}


def from_chat(given: Mapping[str, Json], *, finish_reason: Json = None) -> Json:
    """A message of chat completions."""
    calls = [_call(call) for call in mappings(given.get("tool_calls"))]
    return message(
        given.get("role"),
        given.get("content"),
        calls=calls,
        answers=given.get("tool_call_id") or given.get("id"),
        reasoning=given.get("reasoning_content"),
        finish_reason=finish_reason,
    )


def _call(call: Mapping[str, Json]) -> Json:
    function = mapping(call.get("function")) or call
    return tool_call(name=function.get("name"), arguments=function.get("arguments"), ident=call.get("id"))


def _blocks(content: Json) -> list[dict[str, Json]]:
    """The blocks of a content; also of one that an instrumentation has written as JSON text."""
    given = decoded(content) if isinstance(content, str) and content.startswith("[{") else content
    if not isinstance(given, list):
        return []
    blocks = [block for block in given if isinstance(block, dict) and block.get("type") in _BLOCKS]
    return blocks if len(blocks) == len(given) else []


def _part(block: Mapping[str, Json]) -> Json:
    kind = block.get("type")
    if kind in _TEXTS:
        return {"type": "text", "content": block.get("text") or block.get("refusal") or ""}
    if kind == "tool_use":
        return tool_call(name=block.get("name"), arguments=block.get("input"), ident=block.get("id"))
    if kind == "tool_result":
        return tool_response(block.get("tool_use_id"), block.get("content"))
    return dict(block)
