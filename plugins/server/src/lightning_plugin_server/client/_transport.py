"""Delivers calls to a server: from any event loop, again and again until they are answered, each with one effect."""

from __future__ import annotations

import asyncio
import io
import os
import random
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentlightning.errors import ServerError, StoreUnavailable
from agentlightning.store.wire import MSGPACK, PATH_PREFIX, Route, routes
from lightning_plugin_server.client._faults import TRANSIENT, StrangeAnswer, error_of

if TYPE_CHECKING:
    import aiohttp

    from lightning_plugin_server.client._address import Address

Result = TypeVar("Result")
_LARGEST_ANSWER: Final = 256 * 2**20
_LARGE_BODY: Final = 2**20  # aiohttp wants larger ones as a file, which it sends in pieces
_CONNECTIONS: Final = 128
_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 20.0  # between two bytes, beyond what a call may be held for; then it is tried again
_LONG_SILENCE_S: Final = 600.0  # for calls about the whole store
_BACKOFF_S: Final = (0.02, 2.0)
_ABOUT_ALL: Final = frozenset({f"{PATH_PREFIX}store/load", f"{PATH_PREFIX}store/trim"})
_encoder = msgspec.msgpack.Encoder()


class Away(Exception):
    """The server cannot be reached, or says that it cannot answer now."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Transport:
    """An event loop in a thread of its own, with the connections to one server.

    Every call may be repeated safely: those that are not harmless by themselves carry an idempotency key.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; blocks until it can take calls."""
        ready: Future[None] = Future()

        def run() -> None:
            try:
                asyncio.run(self._serve(ready))
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        self._process = os.getpid()
        self._thread = threading.Thread(target=run, name="agl-store-client", daemon=True)
        self._thread.start()
        ready.result()

    def stop(self) -> None:
        """Ends the calls that are under way, and closes the connections; blocks."""
        loop, thread, stopping = self._loop, self._thread, self._stopping
        if loop is None or thread is None or stopping is None or os.getpid() != self._process:
            return
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    def run(self, work: Coroutine[object, object, Result]) -> asyncio.Future[Result]:
        """Runs work in the transport's loop, for the loop that asks.

        Raises:
            StoreUnavailable: It is not open, or was opened before this process was forked.
        """
        return asyncio.wrap_future(self.submit(work))

    def submit(self, work: Coroutine[object, object, Result]) -> Future[Result]:
        """Runs work in the transport's loop, for a thread. Raises what `run` does."""
        loop = self._loop
        if os.getpid() != self._process:
            work.close()
            raise StoreUnavailable(
                f"the store {self.address.url} was opened before this process was forked; open it in each process"
            )
        if loop is None:
            work.close()
            raise self._closed()
        guarded = self._unless_stopped(work)
        try:
            return asyncio.run_coroutine_threadsafe(guarded, loop)
        except RuntimeError:  # another thread has closed it just now
            guarded.close()
            work.close()
            raise self._closed() from None

    async def deliver(self, path: str, payload: bytes, *, patience_s: float, hold_s: float = 0.0) -> object:
        """Sends a call until it is answered, and decodes the answer. Runs in the transport's loop.

        Args:
            path: Of a route.
            payload: The request, in msgpack.
            patience_s: How long it is repeated while the server is away, in seconds.
            hold_s: How long the server may hold the call before it answers.

        Raises:
            Away: The server stayed away.
            StoreUnavailable: The store was closed meanwhile.
            Exception: What the store behind the server raised.
        """
        until = time.monotonic() + patience_s
        pause_s = _BACKOFF_S[0]
        while True:
            try:
                return await self._once(path, payload, hold_s=hold_s)
            except Away as away:
                wait_s = away.wait_s + pause_s * random.uniform(0.5, 1.0)
                pause_s = min(2 * pause_s, _BACKOFF_S[1])
                if time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)

    async def _unless_stopped(self, work: Coroutine[object, object, Result]) -> Result:
        """Runs work; that the store is closed meanwhile is no cancellation of who asked."""
        try:
            return await work
        except asyncio.CancelledError:
            if self._stopping is not None and self._stopping.is_set():
                raise self._closed() from None
            raise

    async def healthy(self) -> None:
        """Raises `Away` unless the server answers."""
        import aiohttp

        try:
            async with self._open_session.get(
                self.address.url + "/healthz",
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=10.0),
            ) as response:
                if response.status in TRANSIENT:
                    raise Away(f"{self.address.url} is there, but its store does not answer")
        except (aiohttp.ClientError, OSError) as error:
            raise Away(f"nothing answers at {self.address.url} ({error})") from error

    async def _once(self, path: str, payload: bytes, *, hold_s: float) -> object:
        import aiohttp

        url = self.address.url + path
        silence_s = _LONG_SILENCE_S if path in _ABOUT_ALL else hold_s + _SILENCE_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
        try:
            data = payload if len(payload) < _LARGE_BODY else io.BytesIO(payload)
            async with self._open_session.post(
                url, data=data, allow_redirects=False, timeout=timeout
            ) as response:
                body = await _read(response)
                status, retry_after = response.status, response.headers.get("retry-after", "")
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise Away(f"{self.address.url} broke off ({type(error).__name__}: {error})") from error
        if status == 200:
            return _decoded(path, body, url=self.address.url)
        told = error_of(status, body, url=self.address.url)
        if status in TRANSIENT:
            raise Away(str(told), wait_s=float(retry_after) if retry_after.isdecimal() else 0.0)
        raise told

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise self._closed()
        return self._session

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store {self.address.url} is not open; use `async with` around what needs it"
        )

    async def _serve(self, ready: Future[None]) -> None:
        import aiohttp

        headers = {
            "Content-Type": MSGPACK,
            "Accept": MSGPACK,
            "Accept-Encoding": "identity",
            "User-Agent": "agentlightning",
        }
        if self.address.key:
            headers["Authorization"] = f"Bearer {self.address.key}"
        self._stopping = asyncio.Event()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            auto_decompress=False,
            read_bufsize=2**18,
        ) as session:
            self._loop, self._session = asyncio.get_running_loop(), session
            ready.set_result(None)
            await self._stopping.wait()
            self._loop = self._session = None
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


def encoded(path: str, arguments: dict[str, object]) -> bytes:
    """A request of a route.

    Raises:
        TypeError: An argument is no plain data.
        ValueError: A number is too wide, or text is not Unicode.
    """
    try:
        return _encoder.encode(routes()[path].request(**arguments))
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"the arguments of {path} cannot be sent: {error}") from error


@cache
def _decoder(path: str) -> msgspec.msgpack.Decoder[object]:
    route: Route = routes()[path]
    return msgspec.msgpack.Decoder(route.response)


def _decoded(path: str, body: bytes, *, url: str) -> object:
    try:
        return _decoder(path).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StrangeAnswer(
            f"{url} answered {path} with something else than was expected ({error}); is it of this version?"
        ) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        parts.append(part)
        if size > _LARGEST_ANSWER:
            raise ServerError(
                f"{response.url.origin()} answered with more than {_LARGEST_ANSWER} bytes; ask for less at once"
            )
    return parts[0] if len(parts) == 1 else b"".join(parts)
