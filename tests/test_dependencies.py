"""The dependency rule: arrows point inward, and each package imports only what it declares."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from typing import TYPE_CHECKING

import generate
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKSPACE = {package.import_name: package for package in generate.packages()}
CORE = WORKSPACE["agentlightning"]
CORE_IMPORTS = {"agentlightning", "click", "msgspec", "opentelemetry", "pluggy", "rich"}
CONTRACT_KITS = CORE.src / "testing"
"""Shipped to plugin authors and loaded by their tests only, so the test tools are at hand there."""
EXAMPLE_AGENT = CORE.src / "demo" / "agent.py"
"""An agent as a user would write it: data that is loaded as a target file, never imported by core."""
PLUGIN_PACKAGE = re.compile(r"\blightning_(plugin|adapter|algorithm)_\w+")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports anywhere, also late or only for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(tree: ast.AST) -> set[str]:
    """Top-level packages from outside the standard library that a module imports."""
    return {name.partition(".")[0] for name in imported(tree)} - set(sys.stdlib_module_names)


def declared(package: generate.Package) -> set[str]:
    """Canonical names of the distributions that a package may import from."""
    project = package.project
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    lines = [package.name, *project["dependencies"], *extras]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def transitively_required(name: str) -> set[str]:
    """The distributions that installing one, without extras, brings along: itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = canonicalize_name(waiting.pop())
        if current in found:
            continue
        found.add(current)
        lines = map(Requirement, requires(current) or [])
        waiting += [line.name for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    return found


def _kit_imports(path: Path) -> set[str]:
    return {"hypothesis", "pytest", "pytest_asyncio"} if path.is_relative_to(CONTRACT_KITS) else set()


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import torch.nn\ndef f():\n    from httpx import get\n    import json\nfrom . import x"
    assert roots(ast.parse(source)) == {"torch", "httpx"}


def test_core_imports_nothing_beyond_its_closed_list(modules: dict[Path, ast.Module]) -> None:
    surplus = {
        str(path): extra
        for path, tree in modules.items()
        if path.is_relative_to(CORE.src) and path != EXAMPLE_AGENT
        if (extra := roots(tree) - CORE_IMPORTS - _kit_imports(path))
    }
    assert surplus == {}


def test_core_declares_its_closed_list_and_no_more() -> None:
    assert {Requirement(line).name for line in CORE.project["dependencies"]} == {
        "click",
        "msgspec",
        "opentelemetry-api",
        "opentelemetry-proto",
        "opentelemetry-sdk",
        "pluggy",
        "rich",
    }


def test_core_resolves_to_at_most_fifteen_distributions() -> None:
    found = transitively_required("agentlightning-core")
    assert len(found) <= 15, sorted(found)


def test_core_never_imports_its_example_agent(modules: dict[Path, ast.Module]) -> None:
    assert EXAMPLE_AGENT.exists()
    importers = [
        str(path)
        for path, tree in modules.items()
        if any(name.startswith("agentlightning.demo.agent") for name in imported(tree))
    ]
    assert importers == []


def test_the_example_agent_imports_nothing_of_ours() -> None:
    assert not roots(ast.parse(EXAMPLE_AGENT.read_text())) & set(WORKSPACE)


def test_core_names_no_module_of_another_package(modules: dict[Path, ast.Module]) -> None:
    named = {
        f"{path}:{node.lineno}": node.value
        for path, tree in modules.items()
        if path.is_relative_to(CORE.src)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and PLUGIN_PACKAGE.search(node.value)
    }
    assert named == {}


@pytest.mark.parametrize("package", WORKSPACE.values(), ids=lambda package: package.name)
def test_a_package_imports_only_what_it_declares(
    package: generate.Package, modules: dict[Path, ast.Module]
) -> None:
    providers = packages_distributions() | {name: [other.name] for name, other in WORKSPACE.items()}
    allowed = declared(package)
    undeclared = {
        str(path): unknown
        for path, tree in modules.items()
        if path.is_relative_to(package.src) and path != EXAMPLE_AGENT
        if (
            unknown := {
                root
                for root in roots(tree)
                if not allowed & {canonicalize_name(name) for name in providers.get(root, [root])}
            }
        )
    }
    assert undeclared == {}


@pytest.mark.parametrize("package", WORKSPACE.values(), ids=lambda package: package.name)
def test_arrows_between_packages_point_inward(
    package: generate.Package, modules: dict[Path, ast.Module]
) -> None:
    inward = {CORE.import_name, package.import_name}
    if package.kind in {"plugins", "adapters"}:
        inward |= {
            name for name, other in WORKSPACE.items() if canonicalize_name(other.name) in declared(package)
        }
    outward = {
        str(path): others
        for path, tree in modules.items()
        if path.is_relative_to(package.src)
        if (others := roots(tree) & set(WORKSPACE) - inward)
    }
    assert outward == {}


def test_opentelemetry_instrumentation_stays_out_of_core(modules: dict[Path, ast.Module]) -> None:
    importers = [
        str(path)
        for path, tree in modules.items()
        if path.is_relative_to(CORE.src)
        if any(name.startswith("opentelemetry.instrumentation") for name in imported(tree))
    ]
    assert importers == []


def test_pluggy_is_imported_in_exactly_one_file(modules: dict[Path, ast.Module]) -> None:
    assert [path for path, tree in modules.items() if "pluggy" in roots(tree)] == [CORE.src / "plugins.py"]
