"""OpenTelemetry's own GenAI conventions as earlier releases had them: older names, and messages as events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.capture._convert import JSON_ATTRIBUTES
from agentlightning.pipeline.dialects._meaning import Meaning, count, decoded, first, mapping, mappings, text
from agentlightning.pipeline.dialects._parts import from_chat
from agentlightning.types import Json, Span, SpanStatus

_MESSAGE: Final = re.compile(r"gen_ai\.(system|user|assistant|tool)\.message")
_CHOICE: Final = "gen_ai.choice"
_PROMPT: Final = "gen_ai.content.prompt"
_COMPLETION: Final = "gen_ai.content.completion"
_DETAILS: Final = "gen_ai.client.inference.operation.details"
_EXCEPTION: Final = "exception"


def opentelemetry(span: Span, children: Sequence[Span]) -> Meaning | None:
    """What a span says in names that have been replaced, in its events and in log records below it."""
    attributes = span.attributes
    told = [*_events(span), *_records(children)]
    failure = _exception(span)
    provider = text(attributes.get("gen_ai.system"))
    said: dict[str, Json] = {
        semconv.PROVIDER: provider.lower() if provider else None,
        semconv.INPUT_TOKENS: count(first(attributes, "gen_ai.usage.prompt_tokens")),
        semconv.OUTPUT_TOKENS: count(first(attributes, "gen_ai.usage.completion_tokens")),
        semconv.INPUT_MESSAGES: [message for event in told for message in _input(*event)],
        semconv.OUTPUT_MESSAGES: [message for event in told for message in _output(*event)],
        semconv.ERROR_TYPE: failure.get("exception.type"),
    }
    for name, body in told:
        if name == _DETAILS:
            said |= {
                key: decoded(value) if key in JSON_ATTRIBUTES else value
                for key, value in body.items()
                if key.startswith("gen_ai.") and key != semconv.OPERATION
            }
    operation = semconv.OPERATION_CHAT if span.operation == "generate_content" else None
    return Meaning(operation=operation, error=text(failure.get("exception.message")), attributes=said)


def _events(span: Span) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Events of the span: name, and what the message is."""
    for event in mappings(span.attributes.get(semconv.EVENTS)):
        attributes = mapping(event.get("attributes"))
        content = mapping(attributes.get("gen_ai.event.content"))
        yield str(event.get("name")), attributes | content


def _records(children: Sequence[Span]) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Log records that were sent below the span."""
    for child in children:
        if child.operation == semconv.OPERATION_MESSAGE and child.name.startswith("gen_ai."):
            yield child.name, child.attributes | mapping(child.attributes.get(semconv.MESSAGE))


def _input(name: str, body: Mapping[str, Json]) -> list[Json]:
    if name == _PROMPT:
        return [from_chat(one) for one in mappings(body.get("gen_ai.prompt"))]
    role = _MESSAGE.fullmatch(name)
    return [from_chat({"role": role[1], **body})] if role else []


def _output(name: str, body: Mapping[str, Json]) -> list[Json]:
    if name == _COMPLETION:
        return [from_chat({"role": "assistant", **one}) for one in mappings(body.get("gen_ai.completion"))]
    if name != _CHOICE:
        return []
    inner = mapping(body.get("message")) or body
    return [from_chat({"role": "assistant", **inner}, finish_reason=body.get("finish_reason"))]


def _exception(span: Span) -> Mapping[str, Json]:
    """Attributes of the exception that a failed span has recorded."""
    if span.status is not SpanStatus.ERROR:
        return {}
    events = mappings(span.attributes.get(semconv.EVENTS))
    found = [event for event in events if event.get("name") == _EXCEPTION]
    return mapping(found[-1].get("attributes")) if found else {}
