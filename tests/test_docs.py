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

    Python = Callable[..., subprocess.CompletedProcess[str]]

ROOT = generate.ROOT
README = ROOT / "README.md"
SIGNATURES = ROOT / "docs/reference/hooks.md"
PAGES = sorted(
    [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
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
    code = [line for line in snippets(README).splitlines() if line.strip()]
    assert 10 <= len(code) <= 20


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.fixture
def run(python: Python, tmp_path: Path) -> Callable[[Path], str]:
    """Runs the Python of a page as a reader would, as a script in an empty folder, and hands back what it prints."""

    def run_page(page: Path) -> str:
        (tmp_path / "example.py").write_text(snippets(page))
        done = python("example.py", OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_page


@pytest.mark.slow
def test_the_example_of_the_readme_makes_its_agent_better(run: Callable[[Path], str]) -> None:
    before, after = map(float, run(README).splitlines()[-1].split(" -> "))
    assert before < 0.5 < after


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in {README, SIGNATURES} and snippets(page)], ids=name
)
def test_the_python_of_a_page_runs(page: Path, run: Callable[[Path], str]) -> None:
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []
