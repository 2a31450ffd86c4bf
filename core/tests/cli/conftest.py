"""What the tests of the command line share: `agl` in this process, in a folder of its own, with nothing installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentlightning.cli import main

if TYPE_CHECKING:
    from core.tests.conftest import Site

ALGORITHM = """
from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec

@hookimpl
def agl_register_algorithms():
    return [AlgorithmSpec(name="look", target="dist_look_hooks:Look", summary="looks at rollouts")]

class Look:
    name = "look"

    def __init__(self, params):
        self.steps = params.get("steps", 2)

    async def fit(self, context):
        await context.evaluate(label="before")
        for step in range(int(context.state.get("step", 0)), self.steps):
            rollouts = await context.rollouts(context.train, samples=2, step=step)
            await context.log({"reward": 0.5 + step / 10}, step=step)
            await context.checkpoint(step + 1, {"step": step + 1})
        await context.evaluate(label="after")
"""
AGENT = """
import agentlightning as agl

def solve(task):
    agl.emit_message(f"thinking about {task['x']}")
    agl.emit_reward(0.25, reason="because")
    if task["x"] == 13:
        raise RuntimeError("unlucky")
    return float(task["x"] > 1)

async def wait(task):
    import asyncio
    print("started", flush=True)
    await asyncio.sleep(60)
"""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment that says nothing and installs nothing but core."""
    for name in [name for name in os.environ if name.startswith("AGL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGL_PLUGINS", "core")
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def agl(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `agl` with arguments."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def project(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an agent, tasks, and an installed algorithm."""
    site.install("look", ALGORITHM)
    monkeypatch.setenv("AGL_PLUGINS", "look")
    (folder / "agent.py").write_text(AGENT)
    (folder / "train.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    (folder / "val.jsonl").write_text('{"x": 1}\n{"x": 2}\n{"x": 3}\n{"x": 4}\n')
    return folder
