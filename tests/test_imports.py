"""The import budget, in modules rather than seconds: what is loaded is what costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Python = Callable[..., subprocess.CompletedProcess[str]]

PRINT_MODULES = """
import atexit, json, sys
before = set(sys.modules)
atexit.register(lambda: print("\\n" + json.dumps(sorted({m.partition(".")[0] for m in set(sys.modules) - before}))))
"""
HEAVY = {
    "aiohttp",
    "anthropic",
    "fastapi",
    "httptools",
    "httpx",
    "httpx2",
    "langchain_core",
    "numpy",
    "openai",
    "pydantic",
    "requests",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
}


def loaded(python: Python, statement: str) -> set[str]:
    """Top-level modules that a statement loads in a fresh interpreter."""
    done = python("-c", PRINT_MODULES + statement)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_heavy_import_is_noticed(python: Python) -> None:
    assert "aiohttp" in loaded(python, "import aiohttp.web")


def test_importing_agentlightning_loads_no_framework_and_no_command_line(python: Python) -> None:
    assert loaded(python, "import agentlightning") & (HEAVY | {"click", "rich"}) == set()


def test_the_scripted_model_server_needs_no_test_tools(python: Python) -> None:
    assert loaded(python, "from agentlightning.testing import ScriptedLLM") & (HEAVY | {"pytest"}) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--json"]], ids=" ".join)
def test_looking_around_loads_no_framework(python: Python, arguments: list[str]) -> None:
    statement = f"import sys\nsys.argv = {['agl', *arguments]!r}\nfrom agentlightning.cli import main\nmain()"
    assert loaded(python, statement) & HEAVY == set()


@pytest.mark.parametrize("package", generate.packages()[1:], ids=lambda package: package.name)
def test_the_hooks_of_a_package_load_no_framework(python: Python, package: generate.Package) -> None:
    statement = f"sys.path.append({str(package.src.parent)!r}); import {package.import_name}.hooks"
    assert loaded(python, statement) & HEAVY == set()


def test_every_public_name_exists(python: Python) -> None:
    statement = "import agentlightning as agl\nfor name in agl.__all__: getattr(agl, name)"
    assert loaded(python, statement)
