"""OpenLLMetry (Traceloop): `traceloop.*`, `llm.request.*`, and messages as numbered `gen_ai.prompt.N.*`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.pipeline.dialects._meaning import (
    Attributes,
    Meaning,
    count,
    decoded,
    first,
    mapping,
    numbered,
    text,
)
from agentlightning.pipeline.dialects._parts import message, tool_call
from agentlightning.types import Json, Span

_KINDS: Final = {
    "agent": semconv.OPERATION_AGENT,
    "tool": semconv.OPERATION_TOOL,
    "workflow": semconv.OPERATION_WORKFLOW,
}
_REQUESTS: Final = {
    "chat": semconv.OPERATION_CHAT,
    "completion": semconv.OPERATION_COMPLETION,
    "embedding": semconv.OPERATION_EMBEDDINGS,
}
_SPOKEN: Final = (
    "traceloop.",
    "llm.request.",
    "llm.usage.",
    "llm.is_streaming",
    "gen_ai.prompt.",
    "gen_ai.completion.",
    "gen_ai.request.functions.",
    "gen_ai.request.type",
    "gen_ai.is_streaming",
)


def openllmetry(span: Span, children: Sequence[Span]) -> Meaning | None:
    """What a span with attributes of Traceloop's SDK, or of instrumentations like its own, says."""
    del children
    attributes = span.attributes
    if not any(key.startswith(_SPOKEN) for key in attributes):
        return None
    operation = _KINDS.get(str(attributes.get("traceloop.span.kind"))) or _REQUESTS.get(
        str(first(attributes, "gen_ai.request.type", "llm.request.type"))
    )
    name = text(attributes.get("traceloop.entity.name"))
    agent = name if operation == semconv.OPERATION_AGENT else None
    said: dict[str, Json] = {
        semconv.AGENT_NAME: agent,
        semconv.WORKFLOW_NAME: first(attributes, "traceloop.workflow.name"),
        semconv.CONVERSATION_ID: first(attributes, "traceloop.association.properties.session_id"),
        semconv.INPUT_TOKENS: count(first(attributes, "llm.usage.prompt_tokens")),
        semconv.OUTPUT_TOKENS: count(first(attributes, "llm.usage.completion_tokens")),
        semconv.REQUEST_STREAM: first(attributes, "llm.is_streaming", "gen_ai.is_streaming"),
        semconv.INPUT_MESSAGES: [_message(one) for one in numbered(attributes, "gen_ai.prompt")],
    }
    if operation != semconv.OPERATION_EMBEDDINGS:
        answers = numbered(attributes, "gen_ai.completion")
        reasons: list[Json] = [one["finish_reason"] for one in answers if text(one.get("finish_reason"))]
        said |= {
            semconv.OUTPUT_MESSAGES: [_message(one, role="assistant") for one in answers],
            semconv.FINISH_REASONS: reasons,
            semconv.TOOL_DEFINITIONS: tools(attributes, "llm.request.functions")
            or tools(attributes, "gen_ai.request.functions"),
        }
    if operation == semconv.OPERATION_TOOL:
        said |= {
            semconv.TOOL_NAME: name,
            semconv.TOOL_CALL_ARGUMENTS: arguments(attributes.get("traceloop.entity.input")),
            semconv.TOOL_CALL_RESULT: decoded(attributes.get("traceloop.entity.output")),
        }
    return Meaning(operation=operation, agent=agent, attributes=said)


def tools(attributes: Attributes, prefix: str) -> list[Json]:
    """Tool definitions as numbered attributes."""
    return [
        {"type": "function", "function": {key: _definition(key, one[key]) for key in one}}
        for one in numbered(attributes, prefix)
    ]


def arguments(given: Json) -> Json:
    """What a decorated function was called with: its keyword arguments, unless it had others, too."""
    called = mapping(given)
    if called.keys() <= {"args", "kwargs"} and not called.get("args"):
        return called.get("kwargs")
    return decoded(given)


def _definition(key: str, value: Json) -> Json:
    return decoded(value) if key == "parameters" else value


def _message(told: Attributes, *, role: str = "user") -> Json:
    calls = [
        tool_call(
            name=first(one, "name", "function.name"),
            arguments=first(one, "arguments", "function.arguments"),
            ident=one.get("id"),
        )
        for one in numbered(told, "tool_calls")
    ]
    if name := text(told.get("function_call.name")):
        calls.append(tool_call(name=name, arguments=told.get("function_call.arguments")))
    return message(
        first(told, "role") or role,
        told.get("content"),
        calls=calls,
        answers=told.get("tool_call_id"),
        reasoning=told.get("reasoning"),
        finish_reason=told.get("finish_reason"),
    )
