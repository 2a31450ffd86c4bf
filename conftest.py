"""What every test of the workspace gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts each test in an empty folder of its own, so that none writes into the repository."""
    monkeypatch.chdir(tmp_path)
