"""One call on its way through the gateway."""

from __future__ import annotations

import asyncio
import time

from agentlightning.gateway import AttemptGrant
from agentlightning.types import Span
from lightning_plugin_gateway._attempts import Answer, AttemptCalls
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._models import Model
from lightning_plugin_gateway._record import CallRecord
from lightning_plugin_gateway._request import Body

UNKNOWN_VERSION = -1


class Call:
    """What a call has come to.

    Attributes:
        model: Who answers it, once that is known.
        answer: Where its answer is kept for a retry.
        fold: What has come of a streamed answer.
        in_flight: It holds the gate open.
        recording: Its span is on the way to the store: from here on it is not cancelled.
    """

    def __init__(self, exchange: Exchange, grant: AttemptGrant, calls: AttemptCalls) -> None:
        self.exchange = exchange
        self.grant = grant
        self.calls = calls
        self.record = CallRecord(grant, traceparent=exchange.header(b"traceparent"), start_ns=time.time_ns())
        self.model: Model | None = None
        self.answer: Answer | None = None
        self.fold: StreamFold | None = None
        self.in_flight = False
        self.recording = False
        self._version = UNKNOWN_VERSION
        self._task = asyncio.current_task()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that name the call."""
        return [(b"x-request-id", self.record.span_id.encode())]

    def serve_with(self, model: Model) -> Model:
        """Notes who answers from now on, and with which policy."""
        self.model = model
        self._version = model.version
        return model

    def interrupt(self) -> None:
        """Cancels the generation, unless the answer is complete."""
        if self._task and not self.recording and not (self.fold and self.fold.finished):
            self._task.cancel()

    def resume(self) -> None:
        """Takes the cancellation back, so that the rest can be done."""
        if self._task:
            self._task.uncancel()

    def span(
        self, completion: Body | None = None, *, error: ApiError | None = None, cancelled: bool = False
    ) -> Span:
        """The call's span, of a whole answer or of what there is."""
        found = completion if completion is not None else self.fold.completion() if self.fold else {}
        return self.record.span(
            found, version=self._served(found), end_ns=time.time_ns(), error=error, cancelled=cancelled
        )

    def _served(self, completion: Body) -> int:
        if self.model is None or self.model.version == UNKNOWN_VERSION:
            return UNKNOWN_VERSION
        told = completion.get("policy_version")
        if isinstance(told, int) and not isinstance(told, bool):
            return told
        return self._version if self._version == self.model.version else UNKNOWN_VERSION
