"""`agl new`: packages that pass their tests at once."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from core.tests.cli.conftest import Done

    Agl = Callable[..., Done]


KINDS = ["adapter", "agent", "algorithm", "plugin"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_has_at_most_eight_files(agl: Agl, folder: Path, kind: str) -> None:
    made = agl("new", kind, "my-own", "--json")
    assert made.code == 0
    place = folder / f"lightning-{kind}-my-own"
    assert made.json["directory"] == place.name  # type: ignore[index]
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert found == set(made.json["files"])  # type: ignore[index]
    assert len(found) <= 8


def test_a_package_that_could_not_be_written_is_not_in_the_way(
    agl: Agl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, **_: object) -> int:
        if path.name == "graders.py":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text, encoding="utf-8")

    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", full)
    failed = agl("new", "agent", "my-own")
    assert (failed.code, "No space left on device" in failed.err) == (2, True)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert agl("new", "agent", "my-own").code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_template_is_left_open(agl: Agl, folder: Path, kind: str) -> None:
    assert agl("new", kind, "my-own").code == 0
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert [text for text in texts if re.search(r"\$\{?(name|module|title)", text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_its_tests(agl: Agl, folder: Path, kind: str) -> None:
    pytest.importorskip("lightning_adapter_openai")
    assert agl("new", kind, "my-own").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder / f"lightning-{kind}-my-own",
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["", "My-Framework", "my_framework", "my--framework", "../up", "1st"])
def test_a_name_that_cannot_be_a_package_is_refused(agl: Agl, folder: Path, name: str) -> None:
    done = agl("new", "adapter", name)
    assert done.code == 2
    assert repr(name) in done.err
    assert list(folder.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(agl: Agl, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    done = agl("new", "adapter", "my-framework", "--directory", "mine")
    assert done.code == 2
    assert "not empty" in done.err
    assert [path.name for path in (folder / "mine").iterdir()] == ["notes.txt"]


def test_an_unknown_kind_is_refused_with_those_that_there_are(agl: Agl) -> None:
    done = agl("new", "adaptor", "my-framework")
    assert done.code == 2
    assert "adapter" in done.err
