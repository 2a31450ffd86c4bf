"""No read path executes what it reads: no pickle, no eval, no unsafe loader, in any package."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = {"cloudpickle", "dill", "jsonpickle", "marshal", "pickle", "shelve"}
BUILTINS = {"eval", "exec"}
LOADERS = {"yaml.load", "yaml.unsafe_load", "joblib.load"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Imports and calls that can run code found in data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                yield str(node.module)
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                call in BUILTINS | LOADERS
                or (call == "torch.load" and options.get("weights_only") != "True")
                or options.get("allow_pickle") == "True"
                or options.get("trust_remote_code") == "True"
            ):
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def late():\n    from cloudpickle import loads",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_what_is_unsafe_is_found(source: str) -> None:
    assert list(unsafe(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["model.eval()", "torch.load(path, weights_only=True)", "yaml.safe_load(text)"]
)
def test_what_is_safe_is_let_through(source: str) -> None:
    assert not list(unsafe(ast.parse(source)))


def test_no_package_executes_what_it_reads(modules: dict[Path, ast.Module]) -> None:
    found = {str(path): calls for path, tree in modules.items() if (calls := list(unsafe(tree)))}
    assert found == {}
