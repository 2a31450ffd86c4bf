"""What the tests share: an instrumented process, a scripted model and rollouts that point at it."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

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

from agentlightning.capture import Endpoint, RolloutContext, install_tracing
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedReply
from agentlightning.types import Mode, Resource, Span

_OF_CREWAI = (
    r"ignore::DeprecationWarning:crewai\..*",  # it asks its agents for deprecated fields of its own
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in _OF_CREWAI:
                item.add_marker(pytest.mark.filterwarnings(warning))


class Stage:
    """An instrumented process with a scripted endpoint."""

    llm: ScriptedLLM
    adapter: Any

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.spans: list[Span] = []
        self.replies: list[ScriptedReply] = []
        self.script: Callable[[Any], ScriptedReply] = lambda _: ScriptedAnswer(text="ok")

    def add(self, span: Span) -> None:
        """Takes the rollout's spans: this is its sink, too."""
        self.spans.append(span)

    def answer(self, request: Any) -> ScriptedReply:
        return self.replies.pop(0) if self.replies else self.script(request)

    def of(self, operation: str) -> list[Span]:
        """In the order in which they started."""
        return sorted(
            (span for span in self.spans if span.operation == operation), key=lambda one: one.start_ns
        )

    def path(self, span: Span) -> list[str]:
        """Names of the spans above a span, the nearest first."""
        by_id, names = {one.span_id: one for one in self.spans}, []
        while span.parent_id in by_id:
            span = by_id[span.parent_id]
            names.append(span.name)
        return names

    def rollout(
        self, name: str = "a", *, sink: object = None, resources: Mapping[str, Resource] | None = None
    ) -> RolloutContext:
        return RolloutContext(
            rollout_id=f"r-{name}",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=sink or self,  # type: ignore[arg-type]
            endpoint=Endpoint(base_url=self.llm.base_url, api_key=f"key-{name}"),
            resources=resources or {},
        )


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    provider = TracerProvider()
    install_tracing(provider)
    from lightning_adapter_crewai import CrewAIAdapter

    stage = Stage(provider)
    stage.adapter = CrewAIAdapter()
    with ScriptedLLM(stage.answer) as stage.llm:
        stage.adapter.instrument(provider)
        yield stage
        stage.adapter.uninstrument()
    provider.shutdown()
