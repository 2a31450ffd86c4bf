"""Span attributes of a chat completion: what was asked and what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning import semconv
from agentlightning.capture.content import to_text
from lightning_adapter_openai._messages import field, input_messages, items, output_messages

Attribute = str | bool | int | float | Sequence[str]
Attributes = dict[str, Attribute]

PROVIDER = "openai"


def request_attributes(request: Mapping[str, object], content: bool) -> Attributes:
    """What is asked. `content` says whether messages and tools are recorded."""
    longest = request.get("max_completion_tokens") or request.get("max_tokens")
    found = asked(request, operation=semconv.OPERATION_CHAT, longest=longest)
    if content:
        found[semconv.INPUT_MESSAGES] = to_text(input_messages(items(request.get("messages"))))
        if tools := items(request.get("tools")):
            found[semconv.TOOL_DEFINITIONS] = to_text(tools)
    return found


def response_attributes(completion: object, content: bool) -> Attributes:
    """What came back: a `ChatCompletion` or one as plain data."""
    found = answered(completion, usage=("prompt_tokens", "completion_tokens"))
    choices = items(field(completion, "choices"))
    found[semconv.FINISH_REASONS] = [str(field(choice, "finish_reason") or "") for choice in choices]
    if content:
        found[semconv.OUTPUT_MESSAGES] = to_text(output_messages(choices))
    return found


def asked(request: Mapping[str, object], *, operation: str, longest: object) -> Attributes:
    """What every request has: model and sampling, `longest` being its limit of tokens."""
    found: Attributes = {
        semconv.OPERATION: operation,
        semconv.PROVIDER: PROVIDER,
        semconv.REQUEST_STREAM: request.get("stream") is True,
    }
    model, temperature = request.get("model"), request.get("temperature")
    if isinstance(model, str):
        found[semconv.REQUEST_MODEL] = model
    if isinstance(temperature, int | float):
        found[semconv.REQUEST_TEMPERATURE] = float(temperature)
    if isinstance(longest, int):
        found[semconv.REQUEST_MAX_TOKENS] = longest
    return found


def answered(answer: object, *, usage: tuple[str, str]) -> Attributes:
    """What every answer has: id, model, and usage by these names of prompt's and answer's tokens."""
    found: Attributes = {}
    for key, name in ((semconv.RESPONSE_ID, "id"), (semconv.RESPONSE_MODEL, "model")):
        value = field(answer, name)
        if isinstance(value, str):
            found[key] = value
    counts = field(answer, "usage")
    for key, name in zip((semconv.INPUT_TOKENS, semconv.OUTPUT_TOKENS), usage, strict=True):
        count = field(counts, name)
        if isinstance(count, int):
            found[key] = count
    return found
