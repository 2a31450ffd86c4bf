"""What the tests of core share: distributions installed into a folder of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest


class Site:
    """A folder like site-packages, with plugins of the tests' own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[str] = []

    def install(self, name: str, source: str, *, distribution: str = "", version: str = "1.2") -> None:
        """Installs a plugin: a module, and a distribution whose entry point names it."""
        distribution = distribution or f"dist-{name}"
        module = distribution.replace("-", "_") + "_hooks"
        (self.path / f"{module}.py").write_text(source)
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[agentlightning]\n{name} = {module}\n")
        self.modules.append(module)

    def entry_points(self) -> list[EntryPoint]:
        """The entry points of what was installed here."""
        return [entry for found in distributions(path=[str(self.path)]) for entry in found.entry_points]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder on the path to install plugins into."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    site = Site(path)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


@pytest.fixture
def algorithm_plugin() -> Callable[..., str]:
    """Source of a plugin that registers one algorithm."""

    def source(name: str = "mine", *, target: str = "json:loads", extra: str = "") -> str:
        return (
            "from agentlightning.plugins import hookimpl\n"
            "from agentlightning.specs import AlgorithmSpec\n"
            "@hookimpl\n"
            "def agl_register_algorithms():\n"
            f"    return [AlgorithmSpec(name={name!r}, target={target!r}{extra})]\n"
        )

    return source
