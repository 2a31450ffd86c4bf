"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if (
    find_spec("crewai") is None
):  # an environment of the other packages: `nox -s "adapter(crewai, latest)"` has one
    collect_ignore_glob = ["test_*.py"]
else:
    _HOME = tempfile.TemporaryDirectory(prefix="agl-crewai-")
    os.environ.update(  # before crewai is imported: it reads them then, and looks for a user's data
        {
            "CREWAI_DISABLE_TELEMETRY": "true",
            "CREWAI_STORAGE_DIR": f"{_HOME.name}/storage",
            "CREWAI_TESTING": "true",
            "CREWAI_TRACING_ENABLED": "false",
            "HOME": _HOME.name,
            "XDG_DATA_HOME": f"{_HOME.name}/data",
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crewai.rag refuses what the import system sets on it
        import crewai  # noqa: F401

from agentlightning.testing import CaptureStage

_OF_CREWAI = (
    r"ignore::DeprecationWarning:crewai\..*",  # it asks its agents for deprecated fields of its own
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in _OF_CREWAI:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture
def stage() -> Iterator[CaptureStage]:
    from lightning_adapter_crewai import CrewAIAdapter  # not before crewai has been imported quietly

    with CaptureStage(CrewAIAdapter()) as stage:
        yield stage
