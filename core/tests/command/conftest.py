"""What the tests of commands share: programs that misbehave, and a look at what is left of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentlightning.command import CommandAgent


class Traces:
    """Finds processes that a test has started: all of them have the mark among their arguments."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"agl-test-{secrets.token_hex(8)}"
        self.folder = folder

    def python(self, source: str, **settings: object) -> CommandAgent:
        """An agent that runs a Python program, whose last argument is the mark."""
        settings.setdefault("parent", str(self.folder))
        return CommandAgent(["{python}", "-c", source.strip(), self.mark], **settings)  # type: ignore[arg-type]

    def alive(self) -> list[int]:
        """Processes with the mark that are no zombies."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    arguments = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if self.mark.encode() in arguments:
                    found.append(int(entry.name))
        return found

    def places(self) -> list[Path]:
        """Directories of attempts that are left."""
        return list(self.folder.glob("agl-attempt-*"))

    async def started(self, count: int = 1) -> None:
        """Returns when so many attempts have written the file `ready`."""
        await _until(lambda: len(list(self.folder.glob("agl-attempt-*/work/ready"))) >= count)

    async def gone(self) -> None:
        """Returns when no process is left."""
        await _until(lambda: not self.alive())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


@pytest.fixture
def traces(tmp_path: Path) -> Iterator[Traces]:
    found = Traces(tmp_path / "attempts")
    yield found
    assert found.alive() == []
