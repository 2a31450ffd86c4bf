"""One server: started here and watched, or joined by URL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from agentlightning.errors import EngineError
from lightning_plugin_vllm._client import ServerClient
from lightning_plugin_vllm._command import command, environment, secrets
from lightning_plugin_vllm._options import VllmOptions
from lightning_plugin_vllm._process import ServerProcess, free_port, is_free

PORT_TRIES = 3
POLL_S = 0.2
IN_USE = "address already in use"


class Replica:
    """One server of the weights.

    Attributes:
        client: Calls it.
        running: How many calls are in flight.
    """

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self.running = 0

    @property
    def startable(self) -> bool:
        """Whether it can be started again, with other weights."""
        return False

    async def start(self, *, model: str, served_as: str) -> None:  # noqa: ARG002 - a joined server has its own
        """Gets it ready.

        Raises:
            EngineError: It is not.
        """
        if not await self.client.healthy():
            raise EngineError(
                f"no vLLM answers at {self.client.url}; start it, or correct servers in the engine's section"
            )

    async def stop(self) -> None:
        """Ends what was started here."""

    def explain(self, error: EngineError) -> EngineError:
        """The error, with what this side knows about the server."""
        return error


class StartedReplica(Replica):
    """A server with a process of its own."""

    def __init__(self, options: VllmOptions, *, index: int, directory: Path) -> None:
        self._options = options
        self._index = index
        self._log = directory / "logs" / f"vllm-{index}.log"
        self._process: ServerProcess | None = None
        super().__init__(self._client(options.port + index if options.port else free_port()))

    @property
    def startable(self) -> bool:
        """It can."""
        return True

    async def start(self, *, model: str, served_as: str) -> None:
        """Starts the process, and waits until it takes requests; another took its port, another is tried.

        Raises:
            EngineError: It ended, or was not ready in time; the message has the end of its log.
        """
        for attempt in range(PORT_TRIES):
            try:
                if not is_free(self._port):
                    raise _PortTaken(_taken(self._index, self._port))
                process = self._process = self._prepare(model, served_as)
                process.start()
                await self._ready(process)
            except _PortTaken as error:
                await self.stop()
                if self._options.port or attempt == PORT_TRIES - 1:
                    raise EngineError(str(error)) from error
                self.client = self._client(free_port())
            except BaseException:
                await self.stop()
                raise
            else:
                return

    async def stop(self) -> None:
        """Ends the process and its children."""
        process, self._process = self._process, None
        if process:
            await process.stop()

    def explain(self, error: EngineError) -> EngineError:
        """The error, or that the server has died."""
        process = self._process
        if process is None or process.returncode is None:
            return error
        return EngineError(_ended(self._index, process))

    def _client(self, port: int) -> ServerClient:
        self._port = port
        return ServerClient(f"http://127.0.0.1:{port}/v1", timeout_s=self._options.update_timeout_s)

    def _prepare(self, model: str, served_as: str) -> ServerProcess:
        return ServerProcess(
            command(self._options, model=model, served_as=served_as, port=self._port),
            environment=environment(self._options),
            log=self._log,
            grace_s=self._options.stop_timeout_s,
            secrets=secrets(self._options),
        )

    async def _ready(self, process: ServerProcess) -> None:
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                await _until(self.client.healthy, process, index=self._index, port=self._port)
        except TimeoutError:
            raise EngineError(
                f"vLLM server {self._index} was not ready after start_timeout_s={self._options.start_timeout_s}; give "
                f"it longer, or see its log {str(process.log)!r}, which ends:\n{process.tail()}"
            ) from None


class _PortTaken(EngineError):
    """Somebody else listens on the port."""


async def _until(
    healthy: Callable[[], Awaitable[bool]], process: ServerProcess, *, index: int, port: int
) -> None:
    """Returns once the server is healthy; its death ends the wait."""
    while True:
        answered = await healthy()
        if process.returncode is not None:
            if IN_USE in process.tail(200).lower():
                raise _PortTaken(_taken(index, port))
            raise EngineError(_ended(index, process))
        if answered:
            return
        await asyncio.sleep(POLL_S)


def _taken(index: int, port: int) -> str:
    return f"vLLM server {index} cannot listen on port {port}: it is in use; choose another port, or 0 for free ones"


def _ended(index: int, process: ServerProcess) -> str:
    return (
        f"vLLM server {index} has ended with status {process.returncode}; its log {str(process.log)!r} ends:\n"
        f"{process.tail()}"
    )
