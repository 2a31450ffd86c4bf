"""An OpenAI-compatible upstream that costs next to nothing: `python stub_llm.py PORT`.

Answers are ready bytes of as many tokens as `max_tokens` asks for, each with its id and log-probability; only their ids
differ. A message with `PACE=5` has an answer take 5 ms a token; without, it is there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
from functools import cache
from itertools import count
from typing import Final, cast

PROMPT_TOKENS: Final = 400
IDENT: Final = b"chatcmpl-%012d"
_VOCABULARY: Final = 32_000
_PLACE: Final = IDENT % 0
_MAX_TOKENS: Final = re.compile(rb'"max_tokens": ?(\d+)')
_STREAM: Final = re.compile(rb'"stream": ?true')
_PACE: Final = re.compile(rb"PACE=(\d+)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_EVENTS_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_serial = count(1)


def completion(tokens: int) -> dict[str, object]:
    """A chat completion as vLLM gives it, if asked for ids and log-probabilities."""
    draw = random.Random(tokens)
    ids = [draw.randrange(_VOCABULARY) for _ in range(tokens)]
    words = [f"w{ident % 100} " for ident in ids]
    content = [
        {"token": word, "logprob": -0.1 - ident % 97 / 50, "bytes": list(word.encode()), "top_logprobs": []}
        for word, ident in zip(words, ids, strict=True)
    ]
    return {
        "id": _PLACE.decode(),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "stub-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(words)},
                "finish_reason": "stop",
                "token_ids": ids,
                "logprobs": {"content": content},
            }
        ],
        "prompt_token_ids": [draw.randrange(_VOCABULARY) for _ in range(PROMPT_TOKENS)],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": tokens,
            "total_tokens": PROMPT_TOKENS + tokens,
        },
    }


@cache
def _whole(tokens: int) -> tuple[bytes, bytes]:
    """What comes before and after the id."""
    body = json.dumps(completion(tokens)).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    before, _, after = (head + body).partition(_PLACE)
    return before, after


@cache
def _events(tokens: int) -> list[tuple[bytes, bytes]]:
    """Likewise for each event."""
    whole = completion(tokens)
    (choice,) = whole.pop("choices")  # type: ignore[misc]
    prompt, usage = whole.pop("prompt_token_ids"), whole.pop("usage")
    head = {**whole, "object": "chat.completion.chunk"}
    made: list[dict[str, object]] = []
    for index, entry in enumerate(choice["logprobs"]["content"]):
        delta = {"content": entry["token"]}
        made.append(
            {
                **head,
                "choices": [
                    {
                        "index": 0,
                        "delta": delta if index else {"role": "assistant", **delta},
                        "token_ids": choice["token_ids"][index : index + 1],
                        "logprobs": {"content": [entry]},
                        "finish_reason": "stop" if index == tokens - 1 else None,
                    }
                ],
            }
        )
    made[0]["prompt_token_ids"] = prompt
    made.append({**head, "choices": [], "usage": usage})
    framed = [_chunk(b"data: " + json.dumps(event).encode() + b"\n\n") for event in made]
    framed.append(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    parts = (event.partition(_PLACE) for event in framed)
    return [(before, after) for before, _, after in parts]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in self._streams:
            stream.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end + 2)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < size:
                return
            request, self._received = self._received[:size], self._received[size:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        asked = _MAX_TOKENS.search(request)
        tokens = int(asked[1]) if asked else 16
        ident = IDENT % next(_serial)
        pace = _PACE.search(request)
        pace_s = int(pace[1]) / 1e3 if pace else 0.0
        if not _STREAM.search(request):
            whole = ident.join(_whole(tokens))
            if pace_s:
                asyncio.get_running_loop().call_later(pace_s * tokens, self._transport.write, whole)
            else:
                self._transport.write(whole)
            return
        stream = asyncio.ensure_future(self._stream(tokens, ident, pace_s))
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)

    async def _stream(self, tokens: int, ident: bytes, pace_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        self._transport.write(_EVENTS_HEAD)
        for before, after in _events(tokens):
            self._transport.write(before + ident + after if after else before)
            due += pace_s
            await asyncio.sleep(max(0.0, due - loop.time()) if pace_s else 0)


async def _serve(port: int) -> None:
    for tokens in (16, 64, 512):
        _whole(tokens), _events(tokens)
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_serve(int(sys.argv[1])))
