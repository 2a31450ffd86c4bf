"""A chat completion from its request to its record."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from hashlib import blake2b

import msgspec

from agentlightning.errors import StoreError, StoreUnavailable
from agentlightning.gateway import AttemptGrant, GatewayConfig
from agentlightning.store import Store
from agentlightning.types import Span
from lightning_plugin_gateway._attempts import AttemptCalls, Attempts
from lightning_plugin_gateway._call import Call
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._exchange import Exchange
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._gate import Gate
from lightning_plugin_gateway._models import Model, Models
from lightning_plugin_gateway._request import body_digest, call_seed, needs_seed, parse_chat, upstream_request
from lightning_plugin_gateway._view import ClientView

_DONE = b"data: [DONE]\n\n"
_APPEND_TRIES = 3
_APPEND_WAIT_S = 0.1


class Chat:
    """Serves chat completions; one call is one span."""

    def __init__(
        self, *, store: Store, models: Models, attempts: Attempts, gate: Gate, config: GatewayConfig
    ) -> None:
        self._store = store
        self._models = models
        self._attempts = attempts
        self._gate = gate
        self._config = config
        self._active: set[Call] = set()

    async def serve(self, exchange: Exchange, grant: AttemptGrant, calls: AttemptCalls) -> None:
        """Answers one request. Raises `ApiError` for what the client is still to be told."""
        call = Call(exchange, grant, calls)
        self._active.add(call)
        try:
            await self._serve(call)
        except ApiError as error:
            await self._failed(call, error)
        except asyncio.CancelledError:
            if call.recording:
                raise
            await self._cancelled(call)
        finally:
            self._active.discard(call)
            exchange.unwatch()
            if call.in_flight:
                self._gate.leave()
            if call.answer:
                call.answer.drop()

    def interrupt(self) -> None:
        """Cancels every generation in flight."""
        for call in self._active:
            call.interrupt()

    async def _serve(self, call: Call) -> None:
        exchange, calls = call.exchange, call.calls
        raw = await exchange.body(limit=self._config.max_body_bytes)
        digest = blake2b(raw, digest_size=16).digest()
        if exchange.retried and (repeated := await calls.repeat(digest)):
            body, stream = repeated
            await _repeat(exchange, body, stream=stream)
            return
        self._count(calls)
        model = self._prepare(call, raw)
        call.answer = calls.begin(digest, stream=bool(call.record.asked.get("stream")))
        exchange.watch(call.interrupt)
        await self._gate.enter()
        call.in_flight = True
        call.serve_with(model)
        await (self._stream if call.record.asked.get("stream") else self._whole)(call, model)

    def _count(self, calls: AttemptCalls) -> None:
        calls.calls += 1
        most = self._config.max_calls
        if calls.calls > most:
            message = f"this attempt has made its {most} calls (`max_calls`)"
            raise ApiError(429, message, fault="too_many_calls", final=True)

    def _prepare(self, call: Call, raw: bytes) -> Model:
        record, grant = call.record, call.grant
        record.asked = body = parse_chat(raw)
        record.model = str(body["model"])
        model = self._models.resolve(record.model, grant)
        seed = None
        if grant.seed is not None and needs_seed(body, grant):
            digest = body_digest(body)
            occurrence = call.calls.occurrence(digest, retried=call.exchange.retried)
            seed = call_seed(grant.seed, digest, occurrence)
        record.provider = model.provider
        record.token_ids = model.token_ids
        record.sent = upstream_request(
            body,
            model=model.name or record.model,
            sampling=self._config.sampling.get(grant.mode),
            seed=seed,
            token_ids=model.token_ids,
        )
        return model

    async def _whole(self, call: Call, model: Model) -> None:
        completion = await model.chat(call.record.sent)
        await self._append(call, call.span(completion))
        body = msgspec.json.encode(ClientView(call.record.asked).completion(completion))
        if call.answer:
            call.answer.keep(body)
        await call.exchange.reply(200, body, call.headers)

    async def _stream(self, call: Call, model: Model) -> None:
        view = ClientView(call.record.asked)
        fold = call.fold = StreamFold()
        sent: list[bytes] = []
        async with aclosing(model.stream(call.record.sent)) as chunks:
            async for chunk in chunks:
                fold.add(chunk)
                seen = view.chunk(chunk)
                if seen is None:
                    continue
                if not sent:
                    await call.exchange.start_events(call.headers)
                sent.append(b"data: " + msgspec.json.encode(seen) + b"\n\n")
                await call.exchange.send(sent[-1])
        if not fold.finished:
            message = "the upstream ended its stream before the answer was complete"
            raise ApiError(502, message, fault="upstream_closed")
        await self._append(call, call.span())
        if call.answer:
            call.answer.keep(b"".join([*sent, _DONE]))
        await call.exchange.send(_DONE, last=True)

    async def _failed(self, call: Call, error: ApiError) -> None:
        # One span tells that the limit was reached; one for each call beyond it would know no bound.
        if not call.recording and call.calls.calls <= self._config.max_calls + 1:
            try:
                await self._append(call, call.span(error=error))
            except ApiError as unrecorded:
                error = unrecorded
        await _tell(call.exchange, error)

    async def _cancelled(self, call: Call) -> None:
        call.resume()
        await self._append(call, call.span(cancelled=True))
        if not call.exchange.gone:
            await _tell(call.exchange, ApiError(503, "the gateway is shutting down", fault="cancelled"))

    async def _append(self, call: Call, span: Span) -> None:
        """Returns when the span is kept. Raises `ApiError` if it cannot be: no answer is given unrecorded."""
        call.recording = True
        call.exchange.unwatch()
        for failures in range(_APPEND_TRIES):
            try:
                result = await self._store.spans.append([span], token=call.grant.token)
            except StoreUnavailable as error:
                if failures == _APPEND_TRIES - 1:
                    message = f"the call could not be recorded: {error}"
                    raise ApiError(503, message, fault="not_recorded", retry_after="1") from error
            except StoreError as error:
                message = f"the call cannot be recorded: {error}"
                raise ApiError(500, message, fault="not_recorded", final=True) from error
            else:
                if result.late:
                    self._attempts.refuse(span.attempt_id)
                return
            await asyncio.sleep(_APPEND_WAIT_S * 2**failures)


async def _repeat(exchange: Exchange, body: bytes, *, stream: bool) -> None:
    if not stream:
        await exchange.reply(200, body)
        return
    await exchange.start_events([])
    await exchange.send(body, last=True)


async def _tell(exchange: Exchange, error: ApiError) -> None:
    if not exchange.started:
        raise error
    await exchange.send(b"data: " + error.body + b"\n\n", last=True)
