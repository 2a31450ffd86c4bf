"""Span attributes of a completion of plain text, whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping

from agentlightning import semconv
from agentlightning.capture.content import to_text
from agentlightning.capture.http import decode, events
from agentlightning.types import Json
from lightning_adapter_openai._describe import Attributes, answered, asked
from lightning_adapter_openai._messages import field, items


def request_attributes(request: Mapping[str, object], content: bool) -> Attributes:
    """What is asked; prompts of token ids are left as they are."""
    found = asked(request, operation=semconv.OPERATION_COMPLETION, longest=request.get("max_tokens"))
    if content:
        prompt = request.get("prompt")
        prompts = prompt if isinstance(prompt, list | tuple) else [prompt]
        found[semconv.INPUT_MESSAGES] = to_text(
            [{"role": "user", "parts": [{"type": "text", "content": one}]} for one in prompts]
        )
    return found


def response_attributes(answer: object, content: bool) -> Attributes:
    """What came back: a `Completion` or one as plain data."""
    found = answered(answer, usage=("prompt_tokens", "completion_tokens"))
    choices = items(field(answer, "choices"))
    found[semconv.FINISH_REASONS] = [str(field(choice, "finish_reason") or "") for choice in choices]
    if content:
        messages: list[Json] = [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": field(choice, "text")}],
                "finish_reason": field(choice, "finish_reason"),
            }
            for choice in choices
        ]
        found[semconv.OUTPUT_MESSAGES] = to_text(messages)
    return found


def fold(data: bytes) -> tuple[dict[str, Json], bool]:
    """Puts a response body together; see `_fold.fold`."""
    if data.lstrip()[:1] == b"{":
        body = decode(data)
        return body, bool(body)
    head: dict[str, Json] = {}
    texts: dict[int, list[str]] = {}
    reasons: dict[int, Json] = {}
    for event in events(data):
        head |= {
            name: event[name] for name in ("id", "model", "usage", "error") if event.get(name) is not None
        }
        for choice in items(event.get("choices")):
            place = field(choice, "index")
            index = place if isinstance(place, int) else 0
            texts.setdefault(index, []).append(str(field(choice, "text") or ""))
            reasons[index] = field(choice, "finish_reason") or reasons.get(index)
    choices: list[Json] = [
        {"text": "".join(parts), "finish_reason": reasons[index]} for index, parts in sorted(texts.items())
    ]
    complete = bool(reasons) and all(reasons.values()) and "error" not in head
    return {**head, "choices": choices}, complete
