"""What an adapter's instrumentor must do in programs that know nothing of us: subclass `InstrumentorContract`."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import semconv
from agentlightning.agents import Adapter
from agentlightning.testing._scripted_answer import ScriptedAnswer, ScriptedReply, ScriptedToolCall
from agentlightning.testing._scripted_llm import ScriptedLLM

_GROUP: Final = "opentelemetry_instrumentor"
_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_TRACING: Final = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
    trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
base_url = sys.argv[1]
"""
_BY_HAND: Final = """
from importlib.metadata import entry_points
(entry,) = entry_points(group="opentelemetry_instrumentor", name=sys.argv[2])
entry.load()().instrument()
"""
_TELL: Final = """
with open(sys.argv[3], "w") as file:  # frameworks print what they like
    json.dump({span.name: sorted(span.attributes or ()) for span in exporter.get_finished_spans()}, file)
"""


class InstrumentorContract:
    """Tests that an adapter's instrumentor works without the adapter, and beside it.

    Attributes:
        entry_point: Its name among OpenTelemetry's instrumentors.
        beside: Names of those that the framework's adapter builds on.
        dependencies: Versions of the framework that it says it knows.
        program: A program as the framework's tutorials write them. It asks the model at `base_url` with an agent
            `calculator`, whose tool is called `add`; its client takes the key from where it likes.
        expected: Names of spans that the program leaves, and the attribute with content of each; empty for none.
        replies: What the model answers.
    """

    entry_point: ClassVar[str]
    beside: ClassVar[Sequence[str]] = ("agl_openai",)
    dependencies: ClassVar[Sequence[str]]
    program: ClassVar[str]
    expected: ClassVar[Mapping[str, str]] = {
        "invoke_agent calculator": "",
        "execute_tool add": semconv.TOOL_CALL_ARGUMENTS,
    }
    replies: ClassVar[Sequence[ScriptedReply]] = (
        ScriptedAnswer(tool_calls=(ScriptedToolCall(name="add", arguments={"a": 1, "b": 2}),)),
        ScriptedAnswer(text="3"),
    )

    def make_adapter(self) -> Adapter:
        """Makes the adapter."""
        raise NotImplementedError

    @pytest.mark.parametrize("content", ["", "true"])
    def test_it_works_without_an_adapter(self, content: str) -> None:
        """With content where the user wants it, and without where not."""
        spans = self._run([sys.executable], _TRACING + _BY_HAND, content=content)
        for name, attribute in self.expected.items():
            assert name in spans
            assert not attribute or (attribute in spans[name]) == bool(content)

    def test_it_works_under_opentelemetry_instrument(self) -> None:
        """The command itself, which finds it by its entry point."""
        command = Path(sys.executable).with_name("opentelemetry-instrument")
        spans = self._run([str(command), sys.executable], _TRACING, content="true")
        for name, attribute in self.expected.items():
            assert name in spans
            assert not attribute or attribute in spans[name]

    def test_its_entry_point_is_its_class(self) -> None:
        """Which says what it knows."""
        assert tuple(self._class()().instrumentation_dependencies()) == tuple(self.dependencies)

    def test_an_instrumentation_of_the_users_own_outlives_the_adapter(self) -> None:
        """The adapter puts back only what it has begun itself."""
        provider = TracerProvider()
        instrumentor = self._class()()
        instrumentor.instrument(tracer_provider=provider)
        try:
            adapter = self.make_adapter()
            adapter.instrument(provider)
            adapter.uninstrument()
            assert instrumentor.is_instrumented_by_opentelemetry
        finally:
            instrumentor.uninstrument()
        assert not instrumentor.is_instrumented_by_opentelemetry

    def _class(self) -> Any:  # noqa: ANN401 - a `BaseInstrumentor`, of which core does not know
        (entry,) = entry_points(group=_GROUP, name=self.entry_point)
        return entry.load()

    def _run(self, command: Sequence[str], before: str, *, content: str) -> dict[str, list[str]]:
        """Attributes of the spans that the program leaves, by their names."""
        settings = {f"OTEL_{kind}_EXPORTER": "none" for kind in ("TRACES", "METRICS", "LOGS")}
        # Those of other frameworks that happen to be installed would import these, too: that takes long.
        others = {entry.name for entry in entry_points(group=_GROUP)} - {self.entry_point, *self.beside}
        settings["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(sorted(others))
        with ScriptedLLM(self.replies) as llm, tempfile.TemporaryDirectory() as folder:
            told = Path(folder, "spans.json")
            done = subprocess.run(
                [*command, "-c", before + self.program + _TELL, llm.base_url, self.entry_point, str(told)],
                env={**os.environ, **settings, _CONTENT: content},
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr
            return dict(json.loads(told.read_bytes()))
