"""Turns sampled tokens into chunks while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from agentlightning.engine import ChatChunk
from agentlightning.types import Json
from lightning_plugin_torch._answer import Answer, Token
from lightning_plugin_torch._exchange import Choice, Exchange
from lightning_plugin_torch._format import Delta
from lightning_plugin_torch._response import chunk, chunk_choice, closing, closing_choice, delta_body


class Tokens:
    """Tokens on their way from the worker's thread to an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()

    def sink(self, answer: Answer) -> Callable[[Token], None]:
        """What the worker hands an answer's tokens to."""

        def put(token: Token) -> None:
            try:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (answer.params.choice, token))
            except RuntimeError:  # the loop that asked is closed: nobody is listening
                answer.done.cancel()

        return put

    async def until(self, finished: asyncio.Future[None]) -> AsyncIterator[tuple[int, Token]]:
        """Index of choice and token, in the order of sampling. Raises what sampling raised."""
        while True:
            getting = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait((getting, finished), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                    continue
            finally:
                getting.cancel()
            await finished
            while not self._queue.empty():
                yield self._queue.get_nowait()
            return


async def stream_chunks(
    exchange: Exchange, choices: Sequence[Choice], *, sampled: AsyncIterator[tuple[int, Token]]
) -> AsyncIterator[ChatChunk]:
    """Chunks of every choice, then their ends, then usage and policy version."""
    first: dict[str, Json] = {"prompt_token_ids": list(exchange.prompt)} if exchange.request.token_ids else {}
    start: dict[str, Json] = {"role": "assistant", "content": ""}
    opening = [chunk_choice(exchange, choice.index, delta=start) for choice in choices]
    yield chunk(exchange, opening, **first)
    unsent: list[list[Token]] = [[] for _ in choices]
    async for index, token in sampled:
        unsent[index].append(token)
        for part in _parts(
            exchange, choices[index], deltas=choices[index].push(token.id), unsent=unsent[index]
        ):
            yield part
    for choice, tokens in zip(choices, unsent, strict=True):
        for part in _parts(exchange, choice, deltas=choice.finish(), unsent=tokens):
            yield part
        yield chunk(exchange, [closing_choice(exchange, choice, tokens=tokens)])
    yield chunk(exchange, [], **closing(exchange, choices))


def _parts(
    exchange: Exchange, choice: Choice, *, deltas: list[Delta], unsent: list[Token]
) -> list[ChatChunk]:
    """Chunks for the deltas; the first of them takes the tokens sampled since the last chunk."""
    parts = []
    for delta in deltas:
        body = delta_body(delta, call_id=exchange.call_id(choice.index, delta.call))
        parts.append(chunk(exchange, [chunk_choice(exchange, choice.index, delta=body, tokens=list(unsent))]))
        unsent.clear()
    return parts
