"""An answer that another gateway process recorded, given again to an SDK that asks this one for it."""

from __future__ import annotations

import msgspec

from agentlightning import semconv
from agentlightning.errors import StoreError
from agentlightning.store import SpanQuery, Store
from agentlightning.types import Json, Span, SpanStatus
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.wires._wire import Wire

_SPANS_READ = 2_000
_PAGE = 200
_ASKED = ("logprobs", "return_token_ids")
"""What a record does not keep in the form in which it was answered: such a call is made again."""


async def recorded_answer(digest: str, *, store: Store, attempt_id: str) -> Span | None:
    """The span of the newest call with that digest, if it was answered, and the store has it and can be asked.

    Earlier calls that were asked the same are samples of their own: their answers are no answer to this one.
    """
    query = SpanQuery(attempt_ids=(attempt_id,), operations=(semconv.OPERATION_CHAT,))
    cursor: str | None = None
    newest: Span | None = None
    for _ in range(_SPANS_READ // _PAGE):
        try:
            page = await store.spans.page(query, limit=_PAGE, cursor=cursor)
        except StoreError:
            return None
        for span in page.items:
            if span.attributes.get(semconv.REQUEST_DIGEST) == digest:
                newest = span
        cursor = page.cursor
        if cursor is None:
            break
    return newest if newest and newest.status is SpanStatus.OK else None


def replayed(span: Span, *, request: Body, wire: Wire) -> bytes | None:
    """The answer to a request as its span tells it, streamed if that was asked for; None if the span cannot."""
    found = span.attributes
    messages, reasons = found.get(semconv.OUTPUT_MESSAGES), found.get(semconv.FINISH_REASONS)
    if (
        any(request.get(name) for name in _ASKED)
        or not isinstance(messages, list)
        or not isinstance(reasons, list)
    ):
        return None
    completion: Body = {
        "id": found.get(semconv.RESPONSE_ID),
        "object": "chat.completion",
        "created": span.start_ns // 10**9,
        "model": found.get(semconv.RESPONSE_MODEL),
        "choices": [
            {"index": index, "message": message, "finish_reason": reason, "logprobs": None}
            for index, (message, reason) in enumerate(zip(messages, reasons, strict=True))
        ],
    }
    sizes = (found.get(semconv.INPUT_TOKENS), found.get(semconv.OUTPUT_TOKENS))
    prompt, response = (size if isinstance(size, int) else 0 for size in sizes)
    usage: Body = {"prompt_tokens": prompt, "completion_tokens": response, "total_tokens": prompt + response}
    if request.get("stream"):
        return _streamed(completion, usage, request=request, wire=wire)
    answer = wire.answer({**completion, "usage": usage}, request=request)
    return msgspec.json.encode({**answer, "id": completion["id"]})


def _streamed(completion: Body, usage: Body, *, request: Body, wire: Wire) -> bytes:
    frame = {**completion, "object": "chat.completion.chunk"}
    choices = completion["choices"]
    parts: list[Body] = []
    for choice in choices if isinstance(choices, list) else ():
        parts += (
            {"index": choice["index"], "delta": _delta(choice["message"]), "finish_reason": None},
            {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]},
        )
    writer = wire.events(request)
    told = [writer.add({**frame, "choices": [part]}) for part in parts]
    return b"".join([*told, writer.add({**frame, "choices": [], "usage": usage}), writer.end()])


def _delta(message: Json) -> Body:
    if not isinstance(message, dict):
        return {}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}
