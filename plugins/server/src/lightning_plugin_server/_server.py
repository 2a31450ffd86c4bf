"""The application on a port: bound early, drained late."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from agentlightning.errors import ServerError
from agentlightning.serving import BACKLOG, bind
from lightning_plugin_server._app import ServerApp
from lightning_plugin_server._protocol import BoundedProtocol, protocol

_log = logging.getLogger(__name__)
_GRACE_S = 10
_SWEEP_S = 2.0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ServerError: The address cannot be bound; the message says how to choose another.
    """
    try:
        return bind(host, port)
    except OSError as error:
        raise ServerError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port, or 0 for a free one"
        ) from error


class Serving(uvicorn.Server):
    """Serves an application until it is told to stop; then long polls end, and what is in flight is answered."""

    def __init__(self, app: ServerApp) -> None:
        config = app.config
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=protocol(max_body_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s),
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
        )
        self._app = app
        self.signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `stop_on_signals`."""
        yield

    async def main_loop(self) -> None:
        """Ends stalled connections until it is told to stop.

        What uvicorn would do meanwhile is for settings that are off here.
        """
        pause_s = min(_SWEEP_S, self._app.config.body_timeout_s / 2)
        while not self._app.closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._app.closing.wait()
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.sweep(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends mounted apps, which end what they have in flight, and then waits for all that is."""
        for server in self.servers:
            server.close()
        for mount in self._app.mounts:
            try:
                await mount.aclose()
            except Exception:  # noqa: BLE001 - the border to a plugin: one that is broken does not hold up the rest
                _log.exception("an app at %r did not end as it should", mount.prefix or "/")
        await super().shutdown(sockets)

    def stop(self, signum: int | None = None) -> None:
        """Begins to stop; a second time, does not wait for what is in flight."""
        if self.should_exit:
            self.force_exit = True
        self.signal = self.signal or signum
        self._app.closing.set()
        self.should_exit = True

    def stop_on_signals(self) -> None:
        """Lets Ctrl-C and SIGTERM begin to stop it."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self.stop, signum)
