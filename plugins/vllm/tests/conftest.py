"""Engines over stand-ins of vLLM in processes of their own, with a tiny learner."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentlightning.engine import Backend
from lightning_plugin_vllm import create_backend

FAKE = Path(__file__).parent / "fake"
MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: needs a real vLLM; run by `nox -s vllm`, skipped elsewhere")


@pytest.fixture(scope="session")
def build_options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    corpus.write_text(json.dumps({"messages": [*MESSAGES, {"role": "assistant", "content": "2"}]}) + "\n")
    return {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "context": 160}


@dataclass
class Lab:
    """Starts engines, and looks at their servers from outside."""

    directory: Path
    build: dict[str, object]
    backends: list[Backend] = field(default_factory=list)

    @property
    def calls_file(self) -> Path:
        return self.directory / "calls.jsonl"

    def backend(self, *, fake: dict[str, object] | None = None, **options: object) -> Backend:
        plan = {"calls": str(self.calls_file), **(fake or {})}
        given: dict[str, Any] = {
            "build": self.build,
            "dtype": "float32",
            "tolerance": 1e9,  # the stand-in computes nothing
            "start_timeout_s": 60.0,
            "stop_timeout_s": 5.0,
            **options,
        }
        given["environment"] = {
            "PYTHONPATH": str(FAKE),
            "FAKE": json.dumps(plan),
            **given.get("environment", {}),
        }
        if "model" in given or given.get("serve_only"):
            del given["build"]
        built = create_backend(given, seed=0, directory=self.directory / f"run-{len(self.backends)}")
        self.backends.append(built)
        return built

    async def start(self, *, fake: dict[str, object] | None = None, **options: object) -> Backend:
        built = self.backend(fake=fake, **options)
        await built.engine.start()
        return built

    def urls(self, backend: Backend) -> list[str]:
        return [replica.client.url.removesuffix("/v1") for replica in backend.engine.replicas]

    async def state(self, backend: Backend, index: int = 0) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.urls(backend)[index]}/_state") as answer,
        ):
            return await answer.json(content_type=None)

    async def post(self, backend: Backend, path: str, index: int = 0) -> None:
        async with aiohttp.ClientSession() as session:
            try:
                await (await session.post(f"{self.urls(backend)[index]}{path}")).read()
            except aiohttp.ClientError:
                assert path == "/_die"

    async def until_running(self, backend: Backend, count: int = 1, *, index: int = 0) -> None:
        async def running() -> bool:
            return (await self.state(backend, index))["running"] >= count

        await self.until(running)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)

    def calls(self) -> list[str]:
        if not self.calls_file.exists():
            return []
        return [json.loads(line)[0] for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
async def lab(tmp_path: Path, build_options: dict[str, object]) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path, build_options)
    yield lab
    for backend in lab.backends:
        await backend.engine.stop()


@pytest.fixture
def ask() -> Callable[..., dict[str, object]]:
    """A chat request."""

    def ask(content: str = "hello", **fields: object) -> dict[str, object]:
        return {"model": "policy", "messages": [{"role": "user", "content": content}], **fields}

    return ask


@pytest.fixture
def gone() -> Callable[..., bool]:
    """Whether processes have ended, at last."""

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def gone(*pids: int, within_s: float = 20.0) -> bool:
        end = time.monotonic() + within_s
        while any(alive(pid) for pid in pids):
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    return gone


@pytest.fixture
def pids_in() -> Callable[[Path], list[int]]:
    """Process ids that a process writes into a file, once they are there."""

    def pids_in(path: Path) -> list[int]:
        while not path.exists() or len(path.read_text().split()) < 2:
            time.sleep(0.01)
        return [int(word) for word in path.read_text().split()]

    return pids_in
