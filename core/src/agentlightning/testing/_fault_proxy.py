"""`FaultProxy`: a TCP proxy between a client and a server that breaks connections where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Self

_ANSWER_S: Final = 0.2
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(kw_only=True)
class Faults:
    """What goes wrong with the next connections; None of it by default.

    Attributes:
        refuse: Connections are closed at once.
        cut_request_at: The connection is reset when so many bytes of the client have passed.
        cut_answer_at: The connection is reset when so many bytes of the server have passed; the server gets all of the
            request.
        delay_s: Seconds before a connection is passed on.
        stall: Nothing of the server's is passed on.
        duplicate: The server gets everything of the client's twice: first over a connection of its own, whose answers
            nobody reads.
        times: So many connections go wrong, those after them do not; None is all.
    """

    refuse: bool = False
    cut_request_at: int | None = None
    cut_answer_at: int | None = None
    delay_s: float = 0.0
    stall: bool = False
    duplicate: bool = False
    times: int | None = None


@dataclass
class FaultProxy:
    """Listens on a free port of this machine and passes connections on, in a thread of its own.

    Attributes:
        host: Of the server.
        port: Of the server.
        faults: What goes wrong; may be set at any time, and holds for connections that begin later.
        connections: How many there were.
        broken: How many of them went wrong.
    """

    host: str
    port: int
    faults: Faults = field(default_factory=Faults)
    connections: int = 0
    broken: int = 0

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port` of the proxy."""
        return f"http://127.0.0.1:{self._listening_at}"

    def __enter__(self) -> Self:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="fault-proxy", daemon=True
        )
        self._thread.start()
        self._loop, self._stop, self._listening_at = started.result()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def cut(self) -> None:
        """Ends all connections that there are; blocks until it is done."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]) -> None:
        stop = asyncio.Event()
        tasks = self._tasks = set[asyncio.Task[None]]()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._pass_on(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: writer.close())  # also where it was cancelled before it began

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        started.set_result((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()
        await self._cut()
        await asyncio.sleep(0)  # what is closed says so in the next round

    def _next_faults(self) -> Faults:
        """The faults of a connection that begins now."""
        faults = self.faults
        if faults.times is not None:
            if faults.times == 0:
                return Faults()
            faults.times -= 1
        return faults

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        faults = self._next_faults()
        if faults.refuse:
            self._reset(writer)
            return
        await asyncio.sleep(faults.delay_s)
        try:
            there, back = await self._connected()
        except OSError:
            self._reset(writer)
            return
        double = await self._connected() if faults.duplicate else None
        tasks = {
            asyncio.create_task(_copy(reader, back, cut_at=faults.cut_request_at, double=double)),
            asyncio.create_task(
                _stalled(there) if faults.stall else _copy(there, writer, cut_at=faults.cut_answer_at)
            ),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut = False
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                cut = cut or result is True
            if cut:
                self._reset(writer)
            for ending in (writer, back, *(double or ())[1:]):
                ending.close()

    async def _connected(self) -> _Streams:
        opening = asyncio.create_task(asyncio.open_connection(self.host, self.port))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                (await opening)[1].close()
            raise

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.broken += 1
        writer.transport.abort()


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    cut_at: int | None,
    double: _Streams | None = None,
) -> bool:
    """Copies until one side ends; whether it was cut."""
    passed = 0
    while cut_at is None or passed < cut_at:
        try:
            data = await reader.read(65_536 if cut_at is None else cut_at - passed)
            if not data:
                return False
            if double is not None:
                await _try(data, *double)
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            return False
        passed += len(data)
    return True


async def _try(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends data, and gives the server some time to answer."""
    writer.write(data)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            await reader.read(65_536)


async def _stalled(reader: asyncio.StreamReader) -> bool:
    await asyncio.Event().wait()
    return bool(reader)
