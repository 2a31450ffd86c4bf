"""OpenInference (Arize Phoenix): `openinference.span.kind`, `llm.*`, `input.value`, `tool.*`, `retrieval.*`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.pipeline.dialects._meaning import (
    Attributes,
    Meaning,
    count,
    decoded,
    first,
    mapping,
    mappings,
    numbered,
    sequence,
    text,
)
from agentlightning.pipeline.dialects._parts import from_chat, message, tool_call
from agentlightning.types import Json, Span

_KIND: Final = "openinference.span.kind"
_OPERATIONS: Final = {
    "LLM": semconv.OPERATION_CHAT,
    "EMBEDDING": semconv.OPERATION_EMBEDDINGS,
    "TOOL": semconv.OPERATION_TOOL,
    "AGENT": semconv.OPERATION_AGENT,
    "RETRIEVER": semconv.OPERATION_RETRIEVAL,
}


def openinference(span: Span, children: Sequence[Span]) -> Meaning | None:
    """What a span with a kind of OpenInference says."""
    del children
    attributes = span.attributes
    kind = text(attributes.get(_KIND))
    if kind is None:
        return None
    metadata = mapping(attributes.get("metadata"))
    agent = text(first(attributes, "agent.name")) or text(metadata.get("lc_agent_name"))
    operation = _OPERATIONS.get(kind.upper())
    if operation is None and agent is not None and agent == span.name:
        operation = semconv.OPERATION_AGENT  # an agent of LangChain is a chain with its own name
    if operation == semconv.OPERATION_AGENT:
        agent = agent or span.name
    said: dict[str, Json] = {
        semconv.AGENT_NAME: agent,
        semconv.LOCATION: metadata.get("langgraph_node") if operation == semconv.OPERATION_CHAT else None,
        semconv.CONVERSATION_ID: first(attributes, "session.id"),
        semconv.PROVIDER: first(attributes, "llm.provider", "llm.system"),
    }
    match operation:
        case semconv.OPERATION_CHAT:
            said |= _call(attributes)
        case semconv.OPERATION_EMBEDDINGS:
            said |= {
                semconv.REQUEST_MODEL: first(attributes, "embedding.model_name"),
                semconv.INPUT_TOKENS: count(attributes.get("llm.token_count.prompt")),
            }
        case semconv.OPERATION_TOOL:
            said |= _tool(span)
        case semconv.OPERATION_RETRIEVAL:
            documents = [_document(one) for one in numbered(attributes, "retrieval.documents")]
            said |= {
                semconv.RETRIEVAL_QUERY: attributes.get("input.value"),
                semconv.RETRIEVAL_DOCUMENTS: documents,
            }
    return Meaning(operation=operation, agent=agent, attributes=said)


def _call(attributes: Attributes) -> dict[str, Json]:
    parameters = mapping(attributes.get("llm.invocation_parameters"))
    answer = mapping(attributes.get("output.value"))
    finish = attributes.get("llm.finish_reason")
    tools = [decoded(one.get("tool.json_schema")) for one in numbered(attributes, "llm.tools")]
    return {
        semconv.REQUEST_MODEL: first(parameters, "model", "model_name") or attributes.get("llm.model_name"),
        semconv.RESPONSE_MODEL: attributes.get("llm.model_name"),
        semconv.REQUEST_TEMPERATURE: parameters.get("temperature"),
        semconv.REQUEST_MAX_TOKENS: first(
            parameters, "max_completion_tokens", "max_tokens", "max_output_tokens"
        ),
        semconv.REQUEST_STREAM: parameters.get("stream"),
        semconv.RESPONSE_ID: _response_id(answer),
        semconv.FINISH_REASONS: [finish] if text(finish) else None,
        semconv.INPUT_TOKENS: count(attributes.get("llm.token_count.prompt")),
        semconv.OUTPUT_TOKENS: count(attributes.get("llm.token_count.completion")),
        semconv.TOOL_DEFINITIONS: tools or mappings(parameters.get("tools")),
        semconv.INPUT_MESSAGES: _input(attributes),
        semconv.OUTPUT_MESSAGES: _output(attributes, answer, finish),
    }


def _input(attributes: Attributes) -> list[Json]:
    if told := numbered(attributes, "llm.input_messages"):
        return [_message(one) for one in told]
    if prompts := numbered(attributes, "llm.prompts"):
        return [message("user", first(one, "prompt.text")) for one in prompts]
    given = attributes.get("input.value")
    if messages := mappings(mapping(given).get("messages")):
        return [from_chat(one) for one in messages]
    return [message("user", given)] if text(given) else []


def _output(attributes: Attributes, answer: Mapping[str, Json], finish: Json) -> list[Json]:
    told = [_message(one, finish_reason=finish) for one in numbered(attributes, "llm.output_messages")]
    if not told:
        given = attributes.get("output.value")
        return [message("assistant", given, finish_reason=finish)] if text(given) and not answer else []
    if answer.get("object") != "response":
        return told
    # each item of a response is a message there, all of one answer
    parts = [part for one in told if isinstance(one, dict) for part in sequence(one.get("parts"))]
    return [{"role": "assistant", "parts": parts}]


def _message(told: Attributes, *, finish_reason: Json = None) -> Json:
    calls = [
        tool_call(
            name=one.get("tool_call.function.name"),
            arguments=one.get("tool_call.function.arguments"),
            ident=one.get("tool_call.id"),
        )
        for one in numbered(told, "message.tool_calls")
    ]
    if name := text(told.get("message.function_call_name")):
        calls.append(tool_call(name=name, arguments=told.get("message.function_call_arguments_json")))
    blocks = [_block(one) for one in numbered(told, "message.contents")]
    content = told.get("message.content")
    return message(
        told.get("message.role"),
        blocks if blocks and content is None else content,
        calls=calls,
        answers=told.get("message.tool_call_id"),
        finish_reason=finish_reason,
    )


def _block(told: Attributes) -> Json:
    if url := text(told.get("message_content.image.image.url")):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": first(told, "message_content.text")}


def _response_id(answer: Mapping[str, Json]) -> Json:
    """Id of the answer: of an SDK's own JSON, or of the message that LangChain made of it."""
    if own := text(answer.get("id")):
        return own
    generations = sequence(answer.get("generations"))
    lists = [item for item in generations if isinstance(item, list)]
    for generation in mappings(lists[0] if lists else generations):
        inner = mapping(mapping(generation.get("message")).get("kwargs"))
        return text(mapping(inner.get("response_metadata")).get("id"))
    return None


def _tool(span: Span) -> dict[str, Json]:
    attributes = span.attributes
    result = attributes.get("output.value")
    data = mapping(mapping(result).get("data"))  # a tool message of LangChain
    return {
        semconv.TOOL_NAME: first(attributes, "tool.name") or span.name,
        semconv.TOOL_CALL_ID: first(attributes, "tool_call.id", "tool.id") or data.get("tool_call_id"),
        semconv.TOOL_CALL_ARGUMENTS: first(attributes, "input.value", "tool.parameters"),
        semconv.TOOL_CALL_RESULT: data.get("content") if "tool_call_id" in data else result,
    }


def _document(told: Attributes) -> Json:
    found: dict[str, Json] = {
        "id": told.get("document.id"),
        "content": told.get("document.content"),
        "score": told.get("document.score"),
        "metadata": decoded(told.get("document.metadata")),
    }
    return {name: value for name, value in found.items() if value is not None}
