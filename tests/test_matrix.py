"""Each adapter has an agent that is trained through it; `nox -s matrix` trains them all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import generate
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Python = Callable[..., subprocess.CompletedProcess[str]]

MATRIX = generate.ROOT / "tests/matrix"
ADAPTERS = [package for package in generate.packages() if package.kind == "adapters"]


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.name)
def test_an_adapter_has_an_agent_to_train(package: generate.Package) -> None:
    assert (MATRIX / "agents" / f"{package.path.name}_agent.py").exists()


def test_an_agent_of_no_adapter_is_refused_with_those_there_are(python: Python) -> None:
    done = python(str(MATRIX), "opnai")
    assert done.returncode == 2
    assert "no agent for opnai can be trained here; there are: " in done.stderr


@pytest.mark.slow
def test_an_agent_is_trained_through_its_framework(python: Python) -> None:
    pytest.importorskip("lightning_adapter_openai")
    done = python(str(MATRIX), "openai", "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert row["adapter"] == "openai"
    assert row["first"] < row["last"]
