"""LLM calls through a gateway: a closed loop of keep-alive clients that cost little. Runs as a `Worker`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any, Final, cast

from answering import serve
from http_load import HOST, request
from workload import prompt

MODEL: Final = "stub-model"
_PATIENCE_S: Final = 120.0
_END_BYTES: Final = 64


@dataclass(frozen=True)
class _Answer:
    body: bytes
    status: int
    first_s: float
    """Until its first byte after the head."""
    whole_s: float


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._body = 0
        self._size: int | None = None
        self._sent_at = self._first_s = 0.0
        self._answer: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            so_far = bytes(self._received[:200])
            self._answer.set_exception(ConnectionError(f"the connection ended ({exc!r}) after {so_far!r}"))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._body:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body = end + 4
            head = bytes(received[:end]).lower()
            _, named, length = head.partition(b"\r\ncontent-length:")
            self._size = int(length.partition(b"\r\n")[0]) if named else None
        if not self._first_s and len(received) > self._body:
            self._first_s = time.perf_counter() - self._sent_at
        if (
            received.endswith(b"0\r\n\r\n")
            if self._size is None
            else len(received) >= self._body + self._size
        ):
            self._over()

    def _over(self) -> None:
        assert self._answer is not None
        whole_s = time.perf_counter() - self._sent_at
        status = int(self._received[9:12])
        self._answer.set_result(_Answer(bytes(self._received[self._body :]), status, self._first_s, whole_s))

    async def exchange(self, raw: bytes) -> _Answer:
        self._received.clear()
        self._body, self._first_s = 0, 0.0
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_at = time.perf_counter()
        self._transport.write(raw)
        async with asyncio.timeout(_PATIENCE_S):
            return await self._answer

    def close(self) -> None:
        self._transport.close()


def calls(
    *,
    port: int,
    targets: list[tuple[str, str]],
    clients: int,
    count: int,
    tokens: int,
    stream: bool = False,
    pace_ms: int = 0,
    exact: bool = True,
) -> dict[str, float]:
    """Makes `count` calls, and checks that each answer has its end and so many log-probabilities.

    Args:
        targets: Paths with the keys that go with them; calls are spread over them.
        clients: Connections, each with one call at a time.
        pace_ms: How slow the model is, from token to token of a stream.
        exact: The log-probabilities must be there; without, the end is enough.

    Raises:
        AssertionError: An answer was not what it should be.
    """
    requests = [
        _request(index, target, tokens=tokens, stream=stream, pace_ms=pace_ms)
        for index, target in zip(range(count), _around(targets), strict=False)
    ]
    return asyncio.run(_calls(port, requests, clients, tokens if exact else 0, b"[DONE]" if stream else b"}"))


def _around(targets: list[tuple[str, str]]) -> Any:
    while True:
        yield from targets


def _request(index: int, target: tuple[str, str], *, tokens: int, stream: bool, pace_ms: int) -> bytes:
    path, key = target
    pace = f" PACE={pace_ms}" if pace_ms else ""
    asked = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": prompt(0, 512)},
            {"role": "user", "content": f"{index}{pace} {prompt(1, 1536)}"},
        ],
        "max_tokens": tokens,
        "temperature": 1.0,
        "logprobs": True,
        "stream": stream,
    }
    return request("POST", path, json.dumps(asked).encode(), key=key)


async def _calls(port: int, requests: list[bytes], clients: int, tokens: int, end: bytes) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Connection, HOST, port))[1] for _ in range(clients)]
    left = iter(requests)
    answers: list[_Answer] = []

    async def work(connection: _Connection) -> None:
        for raw in left:
            answers.append(await connection.exchange(raw))  # noqa: PERF401 - all append to one list

    started = time.perf_counter()
    try:
        await asyncio.gather(*map(work, connections))
    finally:
        for connection in connections:
            connection.close()
    wall_s = time.perf_counter() - started
    wrong = [
        one
        for one in answers
        if one.status != 200
        or end not in one.body[-_END_BYTES:]
        or (tokens and one.body.count(b'"logprob":') != tokens)
    ]
    if wrong:
        found = wrong[0].body.count(b'"logprob":')
        message = f"{len(wrong)} of {len(answers)} answers are wrong: one is {wrong[0].status} with {found} of {tokens}"
        raise AssertionError(f"{message}: {wrong[0].body[:500]!r}")
    firsts_ms, wholes_ms = (
        _sorted_ms(one.first_s for one in answers),
        _sorted_ms(one.whole_s for one in answers),
    )
    return {
        "per_s": len(answers) / wall_s,
        "p50_ms": _part(wholes_ms, 0.5),
        "p99_ms": _part(wholes_ms, 0.99),
        "first_p50_ms": _part(firsts_ms, 0.5),
        "first_p99_ms": _part(firsts_ms, 0.99),
    }


def _sorted_ms(seconds: Any) -> list[float]:
    return sorted(one * 1e3 for one in seconds)


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    serve({"calls": calls})
