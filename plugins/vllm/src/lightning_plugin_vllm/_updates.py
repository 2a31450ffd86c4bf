"""How servers get a new version: as an adapter beside the others, or as whole weights in place of those they have."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from agentlightning.errors import EngineError
from lightning_plugin_vllm._engine import Serving, VllmEngine
from lightning_plugin_vllm._files import written_whole
from lightning_plugin_vllm._options import VllmOptions
from lightning_plugin_vllm._replica import Replica

_log = logging.getLogger(__name__)
Write = Callable[[Path], Awaitable[None]]
"""Writes the current weights or adapters into a directory."""


class Updates(Protocol):
    """One way to hand weights over."""

    async def push(self, version: int) -> None:
        """Makes the current weights what new requests are answered with.

        Raises:
            EngineError: A server did not take them; all go on with those they had.
        """
        ...


class AdapterUpdates:
    """Each version is an adapter with a name of its own; answers under way keep the one they began with."""

    def __init__(self, engine: VllmEngine, options: VllmOptions, *, write: Write, directory: Path) -> None:
        self._engine = engine
        self._joined = bool(options.servers)
        self._write = write
        self._folder = directory / "adapters"
        self._directories: dict[str, Path] = {}

    async def push(self, version: int) -> None:
        """Loads the adapter at every server, then asks for it by name; those that nobody uses any more go."""
        engine, name = self._engine, f"{self._engine.model}@v{version}"
        async with written_whole(self._folder, version=version) as place:
            await self._write(place.part)
        try:
            await asyncio.gather(*(one.client.load_adapter(name, place.final) for one in engine.replicas))
            if self._joined:  # their caches know adapters by name alone, and other runs have used these names
                await asyncio.gather(*(one.client.forget_prefixes() for one in engine.replicas))
        except BaseException:
            await self._forget(name, place.final)
            raise
        self._directories[name] = place.final
        engine.serve(Serving(name=name, version=version))
        await self._forget_unused()

    async def _forget_unused(self) -> None:
        for name in list(self._directories):
            if name != self._engine.serving.name and not self._engine.busy(name):
                await self._forget(name, self._directories.pop(name))

    async def _forget(self, name: str, directory: Path) -> None:
        jobs = (one.client.unload_adapter(name) for one in self._engine.replicas)
        for failure in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(failure, EngineError):
                _log.warning("adapter %s stays loaded: %s", name, failure)
            elif isinstance(failure, BaseException):
                raise failure
        shutil.rmtree(directory, ignore_errors=True)


class WeightUpdates:
    """Whole weights, in place while the server is paused, or by a restart."""

    def __init__(self, engine: VllmEngine, options: VllmOptions, *, write: Write, directory: Path) -> None:
        self._engine = engine
        self._options = options
        self._write = write
        self._folder = directory / "weights"
        self._current: Path | None = None
        self._restarts = options.update == "restart"

    async def push(self, version: int) -> None:
        """Replaces the weights at every server."""
        async with written_whole(self._folder, version=version) as place:
            await self._write(place.part)
        try:
            refusal = "" if self._restarts else await self._in_place(place.final, version)
            if self._restarts or refusal:
                await self._restart(place.final, version, refusal=refusal)
        except BaseException:
            shutil.rmtree(place.final, ignore_errors=True)
            raise
        self._clear(keep=place.final)
        self._current = place.final

    async def _in_place(self, directory: Path, version: int) -> str:
        """Returns why a server cannot; then none has changed."""
        engine = self._engine
        try:
            await engine.pause(self._options.pause)
            changed: list[Replica] = []
            for replica in engine.replicas:
                try:
                    refusal = await replica.client.load_weights(directory)
                    if not refusal:
                        changed.append(replica)
                        await replica.client.forget_prefixes()
                except BaseException:
                    await self._put_back([*changed, replica])
                    raise
                if refusal:
                    await self._put_back(changed)
                    return f"vLLM at {replica.client.url} cannot replace weights in place: {refusal}"
            engine.serve(Serving(name=engine.serving.name, version=version))
        finally:
            await engine.resume()
        return ""

    async def _put_back(self, changed: list[Replica]) -> None:
        before = self._current or Path(self._engine.loaded)
        for replica in changed:
            try:
                await replica.client.load_weights(before)
                await replica.client.forget_prefixes()
            except EngineError as error:
                _log.error("vLLM at %s may be left between two versions: %s", replica.client.url, error)

    async def _restart(self, directory: Path, version: int, *, refusal: str) -> None:
        engine = self._engine
        if self._options.update == "in-place" or not all(one.startable for one in engine.replicas):
            raise EngineError(
                f"{refusal}; servers that were started elsewhere need the worker of this package"
            )
        if refusal:
            _log.warning("%s; servers are restarted for each version", refusal)
        self._restarts = True
        await engine.stop_servers()
        engine.serve(Serving(name=engine.serving.name, version=version))  # whoever answers from now on has it
        await engine.start_servers(str(directory))

    def _clear(self, *, keep: Path) -> None:
        """Weights that no server has any more; what was given stays."""
        for old in self._folder.iterdir():
            if old != keep:
                shutil.rmtree(old, ignore_errors=True)
