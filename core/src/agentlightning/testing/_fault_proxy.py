"""`FaultProxy`: a TCP proxy between a client and a server that breaks connections where it is told to."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self


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
        times: So many connections go wrong, those after them do not; None is all.
    """

    refuse: bool = False
    cut_request_at: int | None = None
    cut_answer_at: int | None = None
    delay_s: float = 0.0
    stall: bool = False
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

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]) -> None:
        stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._pass_on(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        started.set_result((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            self._reset(writer)
            return
        tasks = {
            asyncio.create_task(_copy(reader, back, faults.cut_request_at)),
            asyncio.create_task(
                _stalled(there) if faults.stall else _copy(there, writer, faults.cut_answer_at)
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
            writer.close()
            back.close()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.broken += 1
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_at: int | None) -> bool:
    """Copies until one side ends; whether it was cut."""
    passed = 0
    while cut_at is None or passed < cut_at:
        try:
            data = await reader.read(65_536 if cut_at is None else cut_at - passed)
            if not data:
                return False
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            return False
        passed += len(data)
    return True


async def _stalled(reader: asyncio.StreamReader) -> bool:
    await asyncio.Event().wait()
    return bool(reader)
