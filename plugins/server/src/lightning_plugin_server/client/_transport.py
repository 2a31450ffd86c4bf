"""Delivers calls to a server: from any event loop, again and again until they are answered, each with one effect."""

from __future__ import annotations

import asyncio
import io
import os
import random
import threading
import time
from collections.abc import Coroutine
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentlightning.errors import ServerError, StoreUnavailable
from agentlightning.store.wire import MSGPACK, Route, routes
from lightning_plugin_server.client._faults import TRANSIENT, error_of

if TYPE_CHECKING:
    import aiohttp

    from lightning_plugin_server.client._address import Address

Result = TypeVar("Result")
_LARGEST_ANSWER: Final = 512 * 2**20
_LARGE_BODY: Final = 2**20  # aiohttp wants larger ones as a file, which it sends in pieces
_CONNECTIONS: Final = 128
_SILENCE_S: Final = 60.0  # beyond what a call may be held for
_BACKOFF_S: Final = (0.05, 2.0)
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
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; blocks until it can take calls."""
        ready = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="agl-store-client", daemon=True
        )
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Closes the connections; blocks."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and os.getpid() == self._process:
            loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    def run(self, work: Coroutine[object, object, Result]) -> asyncio.Future[Result]:
        """Runs work in the transport's loop, for the loop that asks.

        Raises:
            StoreUnavailable: It is not open, or was opened before this process was forked.
        """
        if self._loop is None or self._session is None:
            work.close()
            raise StoreUnavailable(
                f"the store {self.address.url} is not open; use `async with` around what needs it"
            )
        if os.getpid() != self._process:
            work.close()
            raise StoreUnavailable(
                f"the store {self.address.url} was opened before this process was forked; open it in each process"
            )
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def deliver(self, path: str, payload: bytes, *, patience_s: float, hold_s: float = 0.0) -> object:
        """Sends a call until it is answered, and decodes the answer. Runs in the transport's loop.

        Args:
            path: Of a route.
            payload: The request, in msgpack.
            patience_s: How long it is repeated while the server is away, in seconds.
            hold_s: How long the server may hold the call before it answers.

        Raises:
            Away: The server stayed away.
            Exception: What the store behind the server raised.
        """
        until = time.monotonic() + patience_s
        pause_s = _BACKOFF_S[0]
        while True:
            try:
                return await self._once(path, payload, hold_s=hold_s)
            except Away as away:
                wait_s = max(away.wait_s, pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _BACKOFF_S[1])
                if time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)

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
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=hold_s + _SILENCE_S)
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
            raise StoreUnavailable(f"the store {self.address.url} is not open")
        return self._session

    async def _serve(self, ready: threading.Event) -> None:
        import aiohttp

        headers = {"Content-Type": MSGPACK, "Accept": MSGPACK, "User-Agent": "agentlightning"}
        if self.address.key:
            headers["Authorization"] = f"Bearer {self.address.key}"
        self._stopping = asyncio.Event()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            read_bufsize=2**18,
        ) as session:
            self._loop, self._session = asyncio.get_running_loop(), session
            ready.set()
            await self._stopping.wait()
            self._loop = self._session = None


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
        raise ServerError(
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
