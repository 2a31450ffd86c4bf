"""A recording pass-through as one would write it by hand: `python floor_gateway.py PORT UPSTREAM_PORT`.

It forwards bytes of well-formed HTTP/1.1, parses each request and whole answer, and keeps them in memory for as long as
there are not too many. `GET /recorded` says how many calls were kept with so many ids as log-probabilities, and forgets
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from typing import Any, Final, cast

try:
    from orjson import loads
except ImportError:
    from json import loads

KEPT: Final = 20_000
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
Recorded = tuple[Any, list[int], list[int], list[float], dict[str, int]]


class _Upstream(asyncio.Protocol):
    def __init__(self, idle: list[_Upstream]) -> None:
        self.transport: asyncio.Transport
        self.client: _Client | None = None
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        if self.client is not None:
            self.client.forward(data)

    def connection_lost(self, exc: Exception | None) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(self)


class _Client(asyncio.Protocol):
    def __init__(self, port: int, idle: list[_Upstream], recorded: list[Recorded | bytes]) -> None:
        self._transport: asyncio.Transport
        self._port = port
        self._idle = idle
        self._recorded = recorded
        self._received = b""
        self._asked = b""
        self._answer = bytearray()
        self._upstream: _Upstream | None = None
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end + 2)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < size:
            return
        request, self._received = self._received[:size], self._received[size:]
        if request.startswith(b"GET /recorded"):
            self._tell()
            return
        self._asked = request[end + 4 :]
        self._answer.clear()
        if self._idle:
            self._send(self._idle.pop(), request)
        else:
            self._opening = asyncio.ensure_future(self._open(request))

    async def _open(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: _Upstream(self._idle), "127.0.0.1", self._port)
        self._send(upstream, request)

    def _send(self, upstream: _Upstream, request: bytes) -> None:
        self._upstream = upstream
        upstream.client = self
        upstream.transport.write(request)

    def forward(self, data: bytes) -> None:
        self._transport.write(data)
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._answer, 0, end + 2)
        if length is None:
            if self._answer.endswith(b"0\r\n\r\n"):
                self._over(bytes(self._answer[end + 4 :]))
        elif len(self._answer) >= end + 4 + int(length[1]):
            self._over(_parsed(self._asked, bytes(self._answer[end + 4 :])))

    def _over(self, recorded: Recorded | bytes) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        upstream.client = None
        self._idle.append(upstream)
        self._recorded.append(recorded)
        if len(self._recorded) > KEPT:
            self._recorded.clear()

    def _tell(self) -> None:
        whole = [
            len(one[2]) for one in self._recorded if isinstance(one, tuple) and len(one[2]) == len(one[3])
        ]
        body = json.dumps({"calls": len(self._recorded), "tokens": whole}).encode()
        self._recorded.clear()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


def _parsed(asked: bytes, answer: bytes) -> Recorded:
    told = loads(answer)
    (choice,) = told["choices"]
    logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    return loads(asked), told["prompt_token_ids"], choice["token_ids"], logprobs, told["usage"]


async def _serve(port: int, upstream: int) -> None:
    idle: list[_Upstream] = []
    recorded: list[Recorded | bytes] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Client(upstream, idle, recorded), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
