"""What `previous_response_id` refers to: the conversations of an attempt's earlier answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from agentlightning import semconv
from agentlightning.errors import StoreError
from agentlightning.store import SpanQuery, Store
from agentlightning.types import Span
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.wires.responses import Responses

_KEPT_ANSWERS = 64
_KEPT_BYTES = 4 * 2**20
_SPANS_READ = 2_000
_PAGE = 200
_decoder = msgspec.json.Decoder(list[dict[str, object]])


class History:
    """Chat messages up to and including each answer, the newest ones kept as JSON. For use in one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """What is kept."""
        return self._size

    def keep(self, response_id: str, messages: Sequence[Body]) -> None:
        """Remembers the conversation that an answer ends."""
        encoded = msgspec.json.encode(messages)
        self._size += len(encoded) - len(self._kept.pop(response_id, b""))
        self._kept[response_id] = encoded
        while len(self._kept) > _KEPT_ANSWERS or (self._size > _KEPT_BYTES and len(self._kept) > 1):
            self._size -= len(self._kept.popitem(last=False)[1])

    def find(self, response_id: str) -> list[Body] | None:
        """The conversation that an answer ended, if it is remembered."""
        encoded = self._kept.get(response_id)
        return None if encoded is None else _decoder.decode(encoded)


async def conversation(
    response_id: str, *, history: History, store: Store, attempt_id: str | None
) -> list[Body]:
    """The messages that come before a request which names an earlier answer.

    Args:
        attempt_id: Whose spans are looked through for what is not remembered; None looks nowhere.

    Raises:
        ApiError: 400 if no answer of this attempt has that id, 503 if the store is away.
    """
    known = history.find(response_id)
    if known is None and attempt_id is not None:
        try:
            span = await _find(response_id, store=store, attempt_id=attempt_id)
        except StoreError as error:
            message = f"the answer that `previous_response_id` names could not be looked up: {error}"
            raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
        known = _recorded(span) if span else None
    if known is None:
        message = (
            f"`previous_response_id` {response_id!r:.200} is no answer of this attempt; send the whole conversation as"
            " `input`"
        )
        raise ApiError(400, message, fault="unknown_response", final=True)
    return known


async def _find(response_id: str, *, store: Store, attempt_id: str) -> Span | None:
    query = SpanQuery(attempt_ids=(attempt_id,), operations=(semconv.OPERATION_CHAT,))
    cursor: str | None = None
    for _ in range(_SPANS_READ // _PAGE):
        page = await store.spans.page(query, limit=_PAGE, cursor=cursor)
        for span in page.items:
            if span.attributes.get(semconv.RESPONSE_ID) == response_id:
                return span
        cursor = page.cursor
        if cursor is None:
            return None
    return None


def _recorded(span: Span) -> list[Body] | None:
    request = span.attributes.get(semconv.NATIVE_REQUEST)
    asked, said = (span.attributes.get(name) for name in (semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES))
    if not isinstance(asked, list) or not isinstance(said, list) or not said:
        return None
    completion: Body = {
        "id": span.attributes.get(semconv.RESPONSE_ID),
        "choices": [{"index": 0, "message": said[0]}],
    }
    return Responses().history(request if isinstance(request, dict) else {}, {"messages": asked}, completion)
