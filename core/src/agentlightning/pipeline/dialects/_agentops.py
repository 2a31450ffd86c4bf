"""AgentOps: `agentops.span.kind`, `operation.name`, and the model's tool calls as spans below its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.pipeline.dialects._meaning import Meaning, below, first, numbered, sequence, text
from agentlightning.pipeline.dialects._openllmetry import arguments, openllmetry
from agentlightning.pipeline.dialects._parts import tool_call
from agentlightning.types import Json, Span

_KIND: Final = "agentops.span.kind"
_OPERATIONS: Final = {
    "agent": semconv.OPERATION_AGENT,
    "llm": semconv.OPERATION_CHAT,
    "tool": semconv.OPERATION_TOOL,
}


def agentops(span: Span, children: Sequence[Span]) -> Meaning | None:
    """What a span of AgentOps says: one of its decorators, or a model call whose tool calls are its children."""
    calls = [_call(child) for child in children if _is_request(child)]
    if calls:
        return _with_calls(span, children, calls)
    kind = _kind(span)
    if kind is None or _is_request(span):
        return None
    attributes = span.attributes
    operation = _OPERATIONS.get(kind)
    name = text(first(attributes, "operation.name", "agentops.entity.name", "agent.name"))
    agent = text(attributes.get("agent.name")) or (name if operation == semconv.OPERATION_AGENT else None)
    said: dict[str, Json] = {
        semconv.AGENT_NAME: agent,
        semconv.AGENT_ID: attributes.get("agent.id"),
        semconv.REQUEST_STREAM: attributes.get("gen_ai.request.streaming"),
    }
    if operation == semconv.OPERATION_TOOL:
        given = first(attributes, "agentops.tool.input", "agentops.entity.input", "tool.parameters")
        said |= {
            semconv.TOOL_NAME: first(attributes, "tool.name") or name,
            semconv.TOOL_CALL_ARGUMENTS: arguments(given),
            semconv.TOOL_CALL_RESULT: first(
                attributes, "agentops.tool.output", "agentops.entity.output", "tool.result"
            ),
        }
    return Meaning(operation=operation, agent=agent, attributes=said)


def _with_calls(span: Span, children: Sequence[Span], calls: list[Json]) -> Meaning:
    """The model call with an answer that calls tools."""
    told = openllmetry(span, children) or Meaning()
    answers = sequence(told.attributes.get(semconv.OUTPUT_MESSAGES)) or [{"role": "assistant", "parts": []}]
    answer = answers[0]
    if isinstance(answer, dict) and not numbered(below(span.attributes, "gen_ai.completion.0"), "tool_calls"):
        answers = [answer | {"parts": [*sequence(answer.get("parts")), *calls]}, *answers[1:]]
    return Meaning(operation=told.operation, attributes={semconv.OUTPUT_MESSAGES: answers})


def _kind(span: Span) -> str | None:
    """The kind of a span; an older release wrote the name of the constant."""
    kind = text(span.attributes.get(_KIND))
    return kind.rpartition(".")[2].lower() if kind else None


def _is_request(span: Span) -> bool:
    """Whether a span is a tool call that a model asked for, and not its execution."""
    return _kind(span) == "tool" and "tool.call.id" in span.attributes and "tool.call.type" in span.attributes


def _call(span: Span) -> Json:
    attributes = span.attributes
    return tool_call(
        name=attributes.get("tool.name"),
        arguments=attributes.get("tool.parameters"),
        ident=attributes.get("tool.call.id"),
    )
