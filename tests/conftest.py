"""What the tests of the whole workspace share."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def modules() -> dict[Path, ast.Module]:
    """Every module below a `src` folder, parsed."""
    return {
        path: ast.parse(path.read_text())
        for package in generate.packages()
        for path in sorted(package.src.rglob("*.py"))
    }


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs this interpreter in an empty folder and hands back what it printed."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return run
