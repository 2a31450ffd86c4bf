"""What every test of the workspace gets."""

from __future__ import annotations

import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent


def _runs_here(manifest: Path) -> bool:
    """Whether a package's tests can run in this environment; those of isolated ones want their framework in it."""
    settings = tomllib.loads(manifest.read_text())
    if not settings.get("tool", {}).get("agentlightning", {}).get("isolated", False):
        return True
    wanted = settings["project"]["optional-dependencies"]["instruments"]
    found = [next(iter(distributions(name=Requirement(line).name)), None) for line in wanted]
    return all(found)


collect_ignore = [
    f"{manifest.parent.relative_to(ROOT).as_posix()}/tests"
    for manifest in sorted(ROOT.glob("*/*/pyproject.toml"))
    if not _runs_here(manifest)
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts each test in an empty folder of its own, so that none writes into the repository."""
    monkeypatch.chdir(tmp_path)
