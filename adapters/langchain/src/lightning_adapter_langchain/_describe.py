"""Span attributes of model calls, tools and retrievals, from what callbacks are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from agentlightning import semconv
from agentlightning.types import Json
from lightning_adapter_langchain._messages import input_messages, parts, role, to_text

Attributes = dict[str, str | bool | int | float | Sequence[str]]

_PROVIDER: Final = "langchain"


def asked(params: Mapping[str, Any], metadata: Mapping[str, Any], *, operation: str) -> Attributes:
    """What every request has: provider, model and sampling."""
    found: Attributes = {
        semconv.OPERATION: operation,
        semconv.PROVIDER: str(metadata.get("ls_provider") or _PROVIDER),
    }
    if name := model_name(params, metadata):
        found[semconv.REQUEST_MODEL] = name
    temperature = params.get("temperature", metadata.get("ls_temperature"))
    if isinstance(temperature, int | float):
        found[semconv.REQUEST_TEMPERATURE] = float(temperature)
    longest = params.get("max_tokens", metadata.get("ls_max_tokens"))
    if isinstance(longest, int):
        found[semconv.REQUEST_MAX_TOKENS] = longest
    return found


def model_name(params: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The model that is asked; empty if it has no name."""
    return str(params.get("model") or params.get("model_name") or metadata.get("ls_model_name") or "")


def asked_content(messages: Sequence[BaseMessage], params: Mapping[str, Any]) -> Attributes:
    """Messages and tools of a request."""
    found: Attributes = {semconv.INPUT_MESSAGES: to_text(input_messages(messages))}
    if tools := params.get("tools"):
        found[semconv.TOOL_DEFINITIONS] = to_text(tools)
    return found


def prompted_content(prompts: Sequence[str]) -> Attributes:
    """Prompts of plain text."""
    messages: list[Json] = [
        {"role": "user", "parts": [{"type": "text", "content": prompt}]} for prompt in prompts
    ]
    return {semconv.INPUT_MESSAGES: to_text(messages)}


def answered(result: object, *, content: bool) -> Attributes:
    """What came back: an `LLMResult`, whole or as far as it came."""
    if not isinstance(result, LLMResult):
        return {}
    generations = [generation for choices in result.generations for generation in choices]
    found: Attributes = {semconv.FINISH_REASONS: [_reason(generation) for generation in generations]}
    for message in (one.message for one in generations if isinstance(one, ChatGeneration)):
        told = message.response_metadata
        ident = told.get("id") or message.id
        if isinstance(ident, str):
            found.setdefault(semconv.RESPONSE_ID, ident)
        if model := told.get("model_name") or told.get("model"):
            found.setdefault(semconv.RESPONSE_MODEL, str(model))
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if usage is not None:
            found.setdefault(semconv.INPUT_TOKENS, usage["input_tokens"])
            found.setdefault(semconv.OUTPUT_TOKENS, usage["output_tokens"])
    if content:
        found[semconv.OUTPUT_MESSAGES] = to_text([_output(generation) for generation in generations])
    return found


def _output(generation: Generation) -> Json:
    reason = _reason(generation)
    if isinstance(generation, ChatGeneration):
        message = generation.message
        return {"role": role(message), "parts": parts(message), "finish_reason": reason}
    text = [{"type": "text", "content": generation.text}]
    return {"role": "assistant", "parts": text, "finish_reason": reason}


def _reason(generation: Generation) -> str:
    told = dict(generation.generation_info or {})
    calls = False
    if isinstance(generation, ChatGeneration):
        told |= generation.message.response_metadata
        calls = bool(getattr(generation.message, "tool_calls", ()))
    reason = told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason")
    return str(reason or ("tool_calls" if calls else "stop"))


def tool_asked(
    tool: Mapping[str, Any],
    *,
    text: str,
    inputs: Mapping[str, Any] | None,
    call_id: str | None,
    content: bool,
) -> Attributes:
    """A tool that is called; `text` is what it gets where it takes no fields."""
    found: Attributes = {
        semconv.OPERATION: semconv.OPERATION_TOOL,
        semconv.TOOL_NAME: str(tool.get("name") or "tool"),
    }
    if call_id:
        found[semconv.TOOL_CALL_ID] = call_id
    if content:
        found[semconv.TOOL_DESCRIPTION] = str(tool.get("description") or "")
        found[semconv.TOOL_CALL_ARGUMENTS] = text if inputs is None else to_text(dict(inputs))
    return found


def tool_answered(output: object, *, content: bool) -> Attributes:
    """What a tool returned."""
    found: Attributes = {}
    if isinstance(output, ToolMessage):
        if output.tool_call_id:
            found[semconv.TOOL_CALL_ID] = output.tool_call_id
        output = output.content
    if content:
        found[semconv.TOOL_CALL_RESULT] = output if isinstance(output, str) else to_text(output)
    return found


def retrieval_asked(query: str, *, content: bool) -> Attributes:
    """A retrieval that starts."""
    found: Attributes = {semconv.OPERATION: semconv.OPERATION_RETRIEVAL}
    if content:
        found[semconv.RETRIEVAL_QUERY] = query
    return found


def retrieval_answered(documents: Sequence[Document], *, content: bool) -> Attributes:
    """What was retrieved."""
    if not content:
        return {}
    plain = [
        {"id": document.id, "content": document.page_content, "metadata": document.metadata}
        for document in documents
    ]
    return {semconv.RETRIEVAL_DOCUMENTS: to_text(plain)}
