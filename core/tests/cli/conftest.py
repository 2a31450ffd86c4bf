"""What the tests of the command line share: `agl` in this process, in a folder of its own, with nothing installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentlightning.cli import main


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
