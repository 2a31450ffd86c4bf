"""An ASGI application on a port, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentlightning.errors import GatewayError
from agentlightning.serving import BACKLOG, JoinedTransport, OffersDeclined, bind
from lightning_plugin_gateway._asgi import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Result = TypeVar("Result")
_GRACE_S = 5
_LARGEST_HEAD = 2**16


class _Protocol(OffersDeclined, HttpToolsProtocol):
    """HTTP/1.1 with heads of bounded size."""

    offered = httptools.HttpParserUpgrade
    _in_head = True
    _head_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joined = JoinedTransport(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", joined))

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_size += len(data)
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._in_head and self._head_size > _LARGEST_HEAD:
            self.send_400_response(f"The line and headers of a request may have {_LARGEST_HEAD} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.offers:
            self._in_head = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.offers:
            self._in_head, self._head_size = True, 0
            super().on_message_complete()


class ServerThread:
    """Serves until it is stopped.

    Attributes:
        port: The port that was bound.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        start: Callable[[], Awaitable[App]],
        stop: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        """Binds at once, so that a taken port is told to who asked for it.

        Args:
            host: Address to bind.
            port: Port to bind; 0 takes a free one.
            start: Builds the application, in the loop that it will run in.
            stop: Ends its calls in flight, likewise.

        Raises:
            GatewayError: The address cannot be bound.
        """
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._start = start
        self._stop = stop
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name=f"gateway-{self.port}", daemon=True)

    def start(self) -> Future[asyncio.AbstractEventLoop]:
        """Begins to serve; the future tells when, or why not."""
        self._thread.start()
        return self._loop

    def submit(self, work: Coroutine[None, None, Result]) -> Future[Result]:
        """Runs work in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop.result())

    def stop(self) -> None:
        """Ends calls in flight and unbinds; blocks until that is done."""
        if self._server:
            self.submit(self._stop()).result()
            self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_loop()) as runner:
                runner.run(self._serve())
        except Exception as error:
            if self._loop.done():
                raise
            self._loop.set_exception(error)
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        config = uvicorn.Config(
            await self._start(),
            loop="none",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = uvicorn.Server(config)
        self._loop.set_result(asyncio.get_running_loop())
        await self._server.serve(sockets=[self._socket])


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the faster loop of two, where there is one: each call takes some five turns of it."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop


def _listen(host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        message = (
            f"the gateway cannot bind {host}:{port}: {error.strerror};"
            " set its `port` to another, or to 0 for a free one"
        )
        raise GatewayError(message) from error
