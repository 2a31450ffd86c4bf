"""Turns sampled tokens into chunks while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tokenizers import Tokenizer

from agentlightning.engine import ChatChunk
from agentlightning.types import Json
from lightning_plugin_torch._answer import Answer, Token
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._format import Delta
from lightning_plugin_torch._messages import Call, Message
from lightning_plugin_torch._response import Envelope, chunk, chunk_choice, closing, delta_body, finish_reason


class _Choice:
    """One answer of the stream: its reader, its message so far, and tokens that no chunk has carried yet."""

    def __init__(self, envelope: Envelope, answer: Answer, codec: Codec) -> None:
        self.answer = answer
        self.reader = codec.reader(envelope.request.stop)
        self.unsent: list[Token] = []
        self.calls: list[Call] = []
        self.text = ""
        self._envelope = envelope

    def note(self, delta: Delta) -> None:
        """Adds to the message."""
        self.text += delta.text
        if delta.call >= len(self.calls) >= 0 and delta.call >= 0:
            index = self.answer.params.choice
            self.calls.append(Call(self._envelope.call_id(index, delta.call), delta.name, delta.arguments))
        elif delta.call >= 0:
            call = self.calls[delta.call]
            self.calls[delta.call] = Call(call.id, call.name, call.arguments + delta.arguments)


async def stream_chunks(
    envelope: Envelope,
    answers: list[Answer],
    sampled: asyncio.Queue[tuple[int, Token]],
    finished: asyncio.Future[None],
    codec: Codec,
    tokenizer: Tokenizer,
) -> AsyncIterator[ChatChunk]:
    """Chunks of every choice, then their ends, then usage and policy version.

    Args:
        sampled: Index of choice and token, in the order of sampling.
        finished: Settled when every answer is.
    """
    choices = [_Choice(envelope, answer, codec) for answer in answers]
    first: dict[str, Json] = {"prompt_token_ids": list(envelope.prompt)} if envelope.request.token_ids else {}
    start: dict[str, Json] = {"role": "assistant", "content": ""}
    opening = [chunk_choice(envelope, index, start, (), tokenizer) for index in range(len(choices))]
    yield chunk(envelope, choices=opening, **first)
    async for index, token in _until(sampled, finished):
        choice = choices[index]
        choice.unsent.append(token)
        for part in _parts(envelope, choice, choice.reader.push(token.id), tokenizer):
            yield part
    for choice in choices:
        for part in _parts(envelope, choice, choice.reader.finish(), tokenizer):
            yield part
        reason = finish_reason(choice.answer, calls=bool(choice.calls))
        index = choice.answer.params.choice
        last = chunk_choice(envelope, index, {}, choice.unsent, tokenizer, finish=reason)
        yield chunk(envelope, choices=[last])
        _remember(envelope, choice, codec)
    yield chunk(envelope, choices=[], **closing(envelope, answers))


def _parts(envelope: Envelope, choice: _Choice, deltas: list[Delta], tokenizer: Tokenizer) -> list[ChatChunk]:
    """Chunks for the deltas; the first of them carries the tokens sampled since the last."""
    parts = []
    index = choice.answer.params.choice
    for delta in deltas:
        choice.note(delta)
        body = delta_body(envelope, index, delta)
        parts.append(chunk(envelope, choices=[chunk_choice(envelope, index, body, choice.unsent, tokenizer)]))
        choice.unsent = []
    return parts


async def _until(
    sampled: asyncio.Queue[tuple[int, Token]], finished: asyncio.Future[None]
) -> AsyncIterator[tuple[int, Token]]:
    """Tokens until everything is finished. Raises what sampling raised."""
    while True:
        getting = asyncio.ensure_future(sampled.get())
        try:
            await asyncio.wait((getting, finished), return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
                continue
        finally:
            getting.cancel()
        await finished
        while not sampled.empty():
            yield sampled.get_nowait()
        return


def _remember(envelope: Envelope, choice: _Choice, codec: Codec) -> None:
    if not choice.reader.stopped:
        answer = Message(role="assistant", content=choice.text, calls=tuple(choice.calls))
        ids = [*envelope.prompt, *(token.id for token in choice.answer.tokens)]
        codec.remember(envelope.request.messages, envelope.request.tools, ids, answer=answer)
