"""The documentation: generated parts are fresh, snippets run, links lead somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

ROOT = generate.ROOT
SIGNATURES = ROOT / "docs/reference/hooks.md"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    + [package.path / "README.md" for package in generate.packages()]
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#)([^)#\s]+)[^)]*\)")


def snippets(page: Path) -> str:
    """All Python blocks of a page, as one program."""
    return "\n".join(BLOCK.findall(page.read_text()))


def name(page: Path) -> str:
    """Path of a page within the repository."""
    return page.relative_to(ROOT).as_posix()


def test_generated_parts_are_fresh() -> None:
    assert generate.stale().keys() == set(), "run: python docs/generate.py"


def test_the_readme_has_an_example_of_about_fifteen_lines() -> None:
    code = [line for line in snippets(ROOT / "README.md").splitlines() if line.strip()]
    assert 5 <= len(code) <= 20


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page != SIGNATURES and snippets(page)], ids=name)
def test_the_python_of_a_page_runs(
    page: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = python("-W", "error", "-c", snippets(page))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []
