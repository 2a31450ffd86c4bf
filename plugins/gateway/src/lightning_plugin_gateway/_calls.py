"""A call from its request to its record, whatever wire it comes by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from hashlib import blake2b

import msgspec

from agentlightning.gateway import GatewayConfig, Price
from agentlightning.store import Store
from lightning_plugin_gateway import _asking
from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway._attempts import AttemptCalls
from lightning_plugin_gateway._attribution import Caller
from lightning_plugin_gateway._call import Call
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._keepalive import KeepAlive
from lightning_plugin_gateway._live import LiveRecorder
from lightning_plugin_gateway._native import NativeView, is_last
from lightning_plugin_gateway._outgoing import Outgoing
from lightning_plugin_gateway._preparing import Preparing
from lightning_plugin_gateway._recorder import Recorder
from lightning_plugin_gateway._replay import recorded_answer, replayed
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway._spending import price_of, tokens_of
from lightning_plugin_gateway.turns import TurnBuilder
from lightning_plugin_gateway.upstreams import Model
from lightning_plugin_gateway.wires._wire import Wire
from lightning_plugin_gateway.wires.responses import Responses

_log = logging.getLogger(__name__)
_LAST_WORD_S = 5.0
"""Longest that a client which has stopped reading is waited for once its call is over."""
_LIMITS = frozenset({"too_many_calls", "too_many_tokens", "too_costly"})


class Calls:
    """Serves calls; one call is one span."""

    def __init__(
        self,
        *,
        store: Store,
        preparing: Preparing,
        gate: Gate,
        config: GatewayConfig,
        recorder: Recorder,
        live: LiveRecorder,
        prices: Mapping[str, Price],
        turns: TurnBuilder,
        active: set[Call],
        alarms: Alarms,
    ) -> None:
        self._store = store
        self._preparing = preparing
        self._gate = gate
        self._config = config
        self._recorder = recorder
        self._live = live
        self._prices = prices
        self._turns = turns
        self._active = active
        self._alarms = alarms
        self._over = asyncio.Event()

    async def serve(self, exchange: Exchange, caller: Caller, calls: AttemptCalls, wire: Wire) -> None:
        """Answers one request. Raises `ApiError` for what the client is still to be told."""
        call = Call(exchange, caller, calls, wire)
        self._active.add(call)
        try:
            await self._serve(call)
        except ApiError as error:
            await self._failed(call, error)
        except asyncio.CancelledError:
            if call.recording:
                raise
            await self._cancelled(call)
        except Exception:  # noqa: BLE001 - a bug, or what a plugin raises: the call is recorded all the same
            _log.exception("a call failed in the gateway itself")
            message = "the gateway failed; its log has the reason"
            await self._failed(call, ApiError(500, message, fault="gateway_error"))
        finally:
            self._active.discard(call)
            self._over.set()
            exchange.unwatch()
            if call.keep_alive:
                await call.keep_alive.stop()
            if call.in_flight:
                self._gate.leave()
            if call.answer:
                call.answer.drop()

    async def end(self) -> None:
        """Cancels every generation in flight, and returns when all calls are over."""
        for call in self._active:
            call.interrupt()
        while self._active:
            self._over.clear()
            await self._over.wait()

    async def _serve(self, call: Call) -> None:
        exchange, calls = call.exchange, call.calls
        raw = await exchange.body(limit=self._config.max_body_bytes)
        call.size_bytes = len(raw)
        digest = blake2b(raw, digest_size=16, person=call.wire.name.encode()).digest()
        if exchange.retried and await self._repeated(call, digest, raw):
            return
        call.record.digest = digest.hex()
        if not call.caller.observed:
            calls.count(self._config)
        model, out = await self._preparing.prepare(call, raw)
        call.answer = calls.begin(digest, stream=call.stream)
        exchange.watch(call.interrupt)
        await self._enter(call)
        call.serve_with(model)
        out = await self._preparing.continued(call, model, out)
        await (self._stream if call.stream else self._whole)(call, model, out)

    async def _repeated(self, call: Call, digest: bytes, raw: bytes) -> bool:
        """Gives the recorded answer to a retry, if there is one: here, or from another gateway in the store."""
        if call.calls.knows(digest):
            repeated = await call.calls.repeat(digest)
            if repeated:
                with self._read(call):
                    await _repeat(call.exchange, repeated[0], stream=repeated[1])
            return bool(repeated)
        if call.caller.observed:
            return False
        attempt = call.caller.grant.attempt_id
        span = await recorded_answer(digest.hex(), store=self._store, attempt_id=attempt)
        if span is None:
            return False
        request = call.wire.parse(raw)
        body = replayed(span, request=request, wire=call.wire)
        if body is not None:
            with self._read(call):
                await _repeat(call.exchange, body, stream=bool(request.get("stream")))
        return body is not None

    async def _enter(self, call: Call) -> None:
        """Waits while the gateway is paused; a stream is kept alive meanwhile."""
        if call.stream:
            every_s = self._config.keepalive_s
            call.keep_alive = KeepAlive(call.exchange, every_s=every_s, headers=call.headers)
        since = time.monotonic()
        await self._gate.enter()
        call.in_flight = True
        call.paused(since)

    async def _whole(self, call: Call, model: Model, out: Outgoing) -> None:
        with self._in_time(call):
            said, completion = await _asking.answer(model, out, route=self._preparing.route(call))
        if call.turn:
            completion = await self._turns.read(call.turn, completion)
        asked = call.record.asked
        seen = NativeView(asked).answer(said) if out.native else call.wire.answer(completion, request=asked)
        call.record.response_id = str(seen.get("id") or "")
        body = msgspec.json.encode(seen)
        await self._append(call, completion)
        self._answered(call, completion, body)
        with self._read(call):
            await call.exchange.reply(200, body, call.headers)

    async def _stream(self, call: Call, model: Model, out: Outgoing) -> None:
        fold = call.fold = StreamFold()
        native = NativeView(call.record.asked) if out.native else None
        writer = call.wire.events(call.record.asked)
        sent: list[bytes] = []
        held: list[bytes] = []
        route = self._preparing.route(call)
        with self._in_time(call):
            async with aclosing(_asking.events(model, out, route=route)) as events:
                async for event, chunks in events:
                    for chunk in chunks:
                        fold.add(chunk)
                    if native:
                        seen = native.event(event)
                        if held or is_last(event):
                            held.append(seen)
                            continue
                        if not call.record.response_id:
                            call.record.response_id = _event_id(event)
                    else:
                        seen = b"".join([writer.add(chunk) for chunk in chunks])
                    if seen:
                        if not sent:
                            await self._mark(call)
                            await call.begin_events()
                        sent.append(seen)
                        await call.exchange.send(seen)
        if not fold.finished:
            message = "the upstream ended its stream before the answer was complete"
            raise ApiError(502, message, fault="upstream_closed")
        completion = fold.completion()
        if not native and call.wire.name != "chat":
            answer = call.wire.answer(completion, request=call.record.asked)
            call.record.response_id = str(answer.get("id") or "")
        await self._append(call, completion)
        end = b"".join(held) if native and held else writer.end()
        self._answered(call, completion, b"".join([*sent, end]))
        with self._read(call):
            await call.begin_events()
            await call.exchange.send(end, last=True)

    @contextmanager
    def _in_time(self, call: Call) -> Iterator[None]:
        """Ends what takes longer than a call may. Raises `ApiError` 504."""
        timeout_s = self._config.call_timeout_s
        try:
            with self._alarms.timeout(call.deadline(timeout_s)):
                yield
        except TimeoutError:
            raise _asking.deadline_error(timeout_s) from None

    @contextmanager
    def _read(self, call: Call) -> Iterator[None]:
        """Ends the waiting for a client that has stopped reading: it holds neither the gate nor its attempt.

        Raises `ApiError` 504.
        """
        timeout_s = self._config.call_timeout_s
        soonest = self._alarms.loop.time() + _LAST_WORD_S
        try:
            with self._alarms.timeout(max(call.deadline(timeout_s), soonest)):
                yield
        except TimeoutError:
            raise _asking.deadline_error(timeout_s) from None

    def _answered(self, call: Call, completion: Body, body: bytes) -> None:
        """Remembers an answer for whoever asks for it again or goes on from it."""
        if call.answer:
            call.answer.keep(body)
        if call.wire.name == "responses" and call.record.chat and call.record.asked.get("store") is not False:
            messages = Responses().history(call.record.asked, call.record.chat, completion)
            call.calls.history.keep(call.record.response_id, messages)

    async def _failed(self, call: Call, error: ApiError) -> None:
        if not call.recording and not self._is_told(call, error):
            try:
                await self._append(call, call.completed(), error=error)
            except ApiError as unrecorded:
                error = unrecorded
        await self._tell(call, error)

    @staticmethod
    def _is_told(call: Call, error: ApiError) -> bool:
        """One span tells that a limit was reached; one for each call beyond it would know no bound."""
        if error.fault not in _LIMITS:
            return False
        told, call.calls.limited = call.calls.limited, True
        return told

    async def _cancelled(self, call: Call) -> None:
        call.resume()
        try:
            await self._append(call, call.completed(), cancelled=True)
        except ApiError as unrecorded:
            if not call.exchange.gone:
                await self._tell(call, unrecorded)
            return
        if not call.exchange.gone:
            await self._tell(call, ApiError(503, "the gateway is shutting down", fault="cancelled"))

    async def _mark(self, call: Call) -> None:
        """Records that a stream has begun: if this process dies, what its client has read of it is not forgotten.

        Of an answer in one piece nothing was read if it was not recorded.
        """
        if not call.caller.observed:
            mark = call.record.mark(now_ns=time.time_ns())
            await self._recorder.append(mark, call.caller.grant, at_once=True)

    async def _append(
        self, call: Call, completion: Body, *, error: ApiError | None = None, cancelled: bool = False
    ) -> None:
        """Returns when the call is recorded. Raises `ApiError` if it cannot be."""
        call.recording = True
        call.exchange.unwatch()
        call.calls.tokens += tokens_of(completion)
        call.calls.cost += price_of(completion, self._prices.get(call.target) or self._prices.get("*"))
        span = call.span(completion, error=error, cancelled=cancelled)
        if call.turn and not error and not cancelled:
            span.attributes.update(self._turns.observe(call.turn, completion, tokens=span.tokens))
        if call.caller.observed:
            size = call.size_bytes + 64 * tokens_of(completion) + 4096
            await self._live.append(span, size_bytes=size)
        else:
            await self._recorder.append(span, call.caller.grant)

    async def _tell(self, call: Call, error: ApiError) -> None:
        if call.keep_alive:
            await call.keep_alive.stop()
        if not call.exchange.started:
            raise error
        with suppress(ApiError), self._read(call):
            await call.exchange.send(call.wire.error_event(error), last=True)


def _event_id(event: Body) -> str:
    """Id of an answer, as the first event of its stream tells it."""
    for place in (event, event.get("response"), event.get("message")):
        if isinstance(place, dict) and isinstance(ident := place.get("id"), str):
            return ident
    return ""


async def _repeat(exchange: Exchange, body: bytes, *, stream: bool) -> None:
    if not stream:
        await exchange.reply(200, body)
        return
    await exchange.start_events([])
    await exchange.send(body, last=True)
