"""A running server for tests: in a thread of this process, over any store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.store import Store, open_store
from lightning_plugin_server._app import ServerApp, create_app
from lightning_plugin_server._config import ServerConfig
from lightning_plugin_server._mounts import Mount
from lightning_plugin_server._server import Serving, listen


@dataclass(frozen=True)
class RunningServer:
    """A server that runs.

    Attributes:
        url: `http://127.0.0.1:port`.
        key: The server's own key.
        keys: Makes keys of other scopes.
        app: What it serves.
        stop: Begins to stop it; the end of the block waits until it has.
    """

    url: str
    key: str
    keys: KeyRing
    app: ServerApp
    stop: Callable[[], object]

    def key_for(self, scope: Scope, *, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """A key of a scope."""
        return self.keys.issue(Credential(scope=scope, rollout_id=rollout_id, attempt_id=attempt_id))


@contextmanager
def running_server(
    store: Store | str,
    *,
    port: int = 0,
    key: str = "a key for tests only",
    config: ServerConfig | None = None,
    mounts: Sequence[Mount] = (),
) -> Iterator[RunningServer]:
    """Serves a store in a thread until the end of the block.

    Args:
        store: It, or its URL; opened for as long as the server runs.
    """
    found = open_store(store) if isinstance(store, str) else store
    listener = listen("127.0.0.1", port)
    keys = KeyRing(key)
    started: Future[tuple[asyncio.AbstractEventLoop, Serving, ServerApp]] = Future()

    async def serve() -> None:
        async with found:
            app = create_app(found, keys=keys, config=config, mounts=mounts)
            serving = Serving(app)
            started.set_result((asyncio.get_running_loop(), serving, app))
            await serving.serve(sockets=[listener])

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            listener.close()

    thread = threading.Thread(target=run, name="test-server", daemon=True)
    thread.start()
    loop, serving, app = started.result()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield RunningServer(address, key, keys, app, partial(loop.call_soon_threadsafe, serving.stop))
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(serving.stop)
        thread.join()
