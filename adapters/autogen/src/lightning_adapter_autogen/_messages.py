"""Messages of the framework in the form of the OpenTelemetry GenAI conventions: a role and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from autogen_core import FunctionCall
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
)

from agentlightning import semconv
from agentlightning.capture.content import to_text
from agentlightning.types import Json

_REASONS: Final = {"function_calls": "tool_calls"}


def asked(messages: Iterable[LLMMessage], tools: Sequence[object]) -> dict[str, str]:
    """Span attributes of what the model is shown."""
    found = {semconv.INPUT_MESSAGES: to_text([_message(message) for message in messages])}
    if tools:
        found[semconv.TOOL_DEFINITIONS] = to_text([getattr(tool, "schema", tool) for tool in tools])
    return found


def answered(result: CreateResult, *, content: bool) -> dict[str, object]:
    """Span attributes of an answer."""
    reason = _REASONS.get(result.finish_reason, result.finish_reason)
    found: dict[str, object] = {
        semconv.FINISH_REASONS: [reason],
        semconv.INPUT_TOKENS: result.usage.prompt_tokens,
        semconv.OUTPUT_TOKENS: result.usage.completion_tokens,
    }
    if content:
        parts = _parts(result.content)
        if result.thought:
            parts.insert(0, {"type": "reasoning", "content": result.thought})
        found |= said(parts, reason=reason)
    return found


def said(parts: list[Json], *, reason: str | None) -> dict[str, object]:
    """The span attribute for what the model said."""
    return {
        semconv.OUTPUT_MESSAGES: to_text([{"role": "assistant", "parts": parts, "finish_reason": reason}])
    }


def _message(message: LLMMessage) -> Json:
    if isinstance(message, FunctionExecutionResultMessage):
        return {
            "role": "tool",
            "parts": [
                {"type": "tool_call_response", "id": result.call_id, "response": result.content}
                for result in message.content
            ],
        }
    role = "user"
    if isinstance(message, SystemMessage | AssistantMessage):
        role = "system" if isinstance(message, SystemMessage) else "assistant"
    return {"role": role, "parts": _parts(message.content)}


def _parts(content: str | Sequence[object]) -> list[Json]:
    return [_part(content)] if isinstance(content, str) else [_part(part) for part in content]


def _part(part: object) -> Json:
    if isinstance(part, FunctionCall):
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, str):
        return {"type": "text", "content": part}
    return {"type": "uri", "modality": "image", "uri": getattr(part, "data_uri", "")}
