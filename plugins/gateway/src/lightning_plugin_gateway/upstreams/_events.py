"""The events of a streamed answer, read part by part."""

from __future__ import annotations

import msgspec

from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway._sse import EventTooLong, SseParser
from lightning_plugin_gateway.upstreams._faults import UpstreamFault, answer_fault
from lightning_plugin_gateway.upstreams._protocols import DONE, Protocol
from lightning_plugin_gateway.upstreams._server import Answer
from lightning_plugin_gateway.upstreams._slim import slim_completion

_decoder = msgspec.json.Decoder()


class Events:
    """Reads one stream.

    Attributes:
        batch: The events of the last `fill`; none once the stream has ended.
    """

    def __init__(self, answer: Answer, protocol: Protocol) -> None:
        self.batch: list[Body] = []
        self._answer = answer
        self._protocol = protocol
        self._parser = SseParser()
        self._complete = False
        self._fault: UpstreamFault | None = None

    async def fill(self) -> bool:
        """Waits for the next events; whether there are any.

        Raises:
            UpstreamFault: After the events that came before it.
        """
        self.batch = []
        ended = False
        while not (self.batch or ended or self._complete):
            if self._fault is not None:
                raise self._fault
            part = await self._answer.part()
            self._fault = self._read(part)
            ended = not part and self._fault is None
        return bool(self.batch)

    def close(self) -> None:
        """Ends the stream, and what is still being generated."""
        if self._complete:
            self._answer.finish()
        else:
            self._answer.close()

    def _read(self, part: bytes) -> UpstreamFault | None:
        """Takes what a part completes; why it could not be read to its end, if so."""
        try:
            for data in self._parser.feed(part) if part else self._rest():
                self._take(data)
                if self._complete:
                    break
        except EventTooLong as error:
            return answer_fault(str(error).encode())
        except UpstreamFault as fault:
            return fault
        return None

    def _take(self, data: bytes) -> None:
        if not data or data.isspace():  # keeps a connection alive
            return
        if data.strip() == DONE:
            self._complete = True
            return
        event = decoded(data, answer=self._answer)
        if not isinstance(event, dict) or not self._protocol.is_event(event):
            raise answer_fault(data, secrets=self._answer.secrets)
        self.batch.append(event)
        self._complete = self._protocol.is_last(event)

    def _rest(self) -> list[bytes]:
        """An event that was not ended by a blank line; what was cut short is dropped."""
        last = self._parser.close()
        if last is None:
            return []
        try:
            return [last] if last.strip() == DONE or _decoder.decode(last) is not None else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []


def decoded(raw: bytes, *, answer: Answer, slim: bool = False) -> object:
    """JSON, `slim` if it is a chat completion that may be. Raises `UpstreamFault` if it is none."""
    if slim:
        try:
            return slim_completion(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # another shape than expected: what is wrong with it, if anything, others say
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise answer_fault(raw, secrets=answer.secrets) from error
