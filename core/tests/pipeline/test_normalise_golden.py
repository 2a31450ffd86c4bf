"""Traces recorded from the real instrumentations (`python tests/dialects`), and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning import semconv
from agentlightning.capture.otlp import JSON, decode_logs, decode_traces
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.pipeline.dialects import chat_messages, chat_tools
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Episode, Experience, Span, SpanStatus

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(
    path.stem for path in GOLDEN.glob("*.json") if not path.name.endswith((".expected.json", ".logs.json"))
)
SAID = {
    "agent": semconv.AGENT_NAME,
    "provider": semconv.PROVIDER,
    "asked": semconv.REQUEST_MODEL,
    "model": semconv.RESPONSE_MODEL,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "response": semconv.RESPONSE_ID,
    "finish": semconv.FINISH_REASONS,
    "input_tokens": semconv.INPUT_TOKENS,
    "output_tokens": semconv.OUTPUT_TOKENS,
    "tool": semconv.TOOL_NAME,
    "call": semconv.TOOL_CALL_ID,
    "arguments": semconv.TOOL_CALL_ARGUMENTS,
    "result": semconv.TOOL_CALL_RESULT,
    "query": "gen_ai.retrieval.query.text",
    "documents": "gen_ai.retrieval.documents",
    "error_type": semconv.ERROR_TYPE,
}
"""Attributes that are compared, by what the expectations call them."""


def episode(name: str) -> Episode:
    spans = decode_traces((GOLDEN / f"{name}.json").read_bytes(), JSON).spans
    logs = GOLDEN / f"{name}.logs.json"
    if logs.exists():
        spans += decode_logs(logs.read_bytes(), JSON).spans
    numbered = (msgspec.structs.replace(span, sequence=number) for number, span in enumerate(spans, 1))
    return msgspec.structs.replace(EpisodeBuilder().build(), spans=tuple(numbered))


def run(given: Episode, *, upto: str) -> Episode:
    stages = ("normalise", "join", "order")
    pipeline = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(name, {}) for name in stages[: stages.index(upto) + 1]],
    )
    (done,) = pipeline.run(Experience(episodes=(given,))).episodes
    return done


def understood(name: str) -> list[dict[str, Any]]:
    """What each span that is somebody's work says, in causal order."""
    spans = run(episode(name), upto="order").spans
    places = {span.span_id: place for place, span in enumerate(spans)}
    quiet = {semconv.OPERATION_OTHER, semconv.OPERATION_MESSAGE}
    return [_said(span, places) for span in spans if span.operation not in quiet]


def _said(span: Span, places: dict[str, int]) -> dict[str, Any]:
    attributes = span.attributes
    said: dict[str, Any] = {
        "operation": span.operation,
        "name": span.name,
        "below": places.get(span.parent_id or ""),
    }
    said |= {name: attributes.get(key) for name, key in SAID.items()}
    said |= {
        "error": span.error if span.status is SpanStatus.ERROR else None,
        "tools": chat_tools(attributes.get(semconv.TOOL_DEFINITIONS)),
        "messages": chat_messages(attributes.get(semconv.INPUT_MESSAGES)),
        "answers": chat_messages(attributes.get(semconv.OUTPUT_MESSAGES)),
    }
    return {name: value for name, value in said.items() if value not in (None, [])}


def test_there_are_recordings() -> None:
    assert len(NAMES) >= 7


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_understood_as_expected(name: str) -> None:
    assert understood(name) == json.loads((GOLDEN / f"{name}.expected.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_stays_and_a_second_time_changes_nothing(name: str) -> None:
    before = episode(name)
    after = run(before, upto="normalise")
    for old, new in zip(before.spans, after.spans, strict=True):
        assert {key: new.attributes[key] for key in old.attributes} == old.attributes
        assert (new.span_id, new.name, new.start_ns, new.status) == (
            old.span_id,
            old.name,
            old.start_ns,
            old.status,
        )
    assert run(after, upto="normalise") == after


def gaps(*names: str, reason: str) -> list[Any]:
    """The recordings, those named with a strict expectation to fail."""
    mark = pytest.mark.xfail(strict=True, reason=reason)
    return [pytest.param(name, marks=mark) if name in names else name for name in NAMES]


def calls(name: str) -> list[dict[str, Any]]:
    return [one for one in understood(name) if one["operation"] == semconv.OPERATION_CHAT]


@pytest.mark.parametrize("name", NAMES)
def test_the_tool_loop_is_all_there(name: str) -> None:
    first, second = calls(name)[:2]
    system = {"role": "system", "content": "Calculate with the tool."}
    user = {"role": "user", "content": "What is 2 + 3?"}
    (asked,) = first["answers"]
    (tool,) = asked["tool_calls"]
    assert first["messages"] == [system, user]
    assert (tool["id"], tool["function"]["name"]) == ("call_1", "add")
    assert json.loads(tool["function"]["arguments"]) == {"a": 2, "b": 3}
    assert second["messages"] == [
        system,
        user,
        asked,
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ]
    assert second["answers"] == [{"role": "assistant", "content": "It is 5."}]


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_and_the_error_are_there(name: str) -> None:
    stream, failed = calls(name)[2:4]
    assert stream["messages"] == [{"role": "user", "content": "Count to three."}]
    assert stream["answers"] == [{"role": "assistant", "content": "One, two, three."}]
    assert "refused" in failed["error"]


@pytest.mark.parametrize(
    "name",
    gaps(
        "openai_v2_attributes",
        "openai_v2_logs",
        reason="OpenTelemetry's own instrumentation of that release does not record tool definitions",
    ),
)
def test_the_tools_are_there(name: str) -> None:
    (tool,) = calls(name)[0]["tools"]
    assert tool["type"] == "function"
    assert tool["function"]["name"] == "add"
    assert set(tool["function"]["parameters"]["properties"]) == {"a", "b"}


@pytest.mark.parametrize(
    "name",
    gaps(
        "agentops_sdk",
        "openai_v2_attributes",
        "openai_v2_logs",
        "openinference_langchain",
        "openllmetry_indexed",
        reason="no messages of the Responses API in the spans",
    ),
)
def test_the_response_is_there(name: str) -> None:
    response = calls(name)[4]
    assert response["messages"][-1] == {"role": "user", "content": "Name a colour."}
    assert response["answers"] == [{"role": "assistant", "content": "Blue"}]


@pytest.mark.parametrize(
    "name",
    gaps("openinference_langchain", reason="LangChain has no hook for embeddings"),
)
def test_the_embedding_is_there(name: str) -> None:
    (embedding,) = [one for one in understood(name) if one["operation"] == semconv.OPERATION_EMBEDDINGS]
    assert embedding["asked"] == "text-embedding-3-small"


def test_the_retrieval_is_there() -> None:
    (found,) = [one for one in understood("openinference_langchain") if one["operation"] == "retrieval"]
    assert found["query"] == "two words"
    assert found["documents"] == [{"content": "Two and three are five.", "metadata": {"page": 7}}]


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("agentops_sdk", "Calculator"),
        ("openinference_langchain", "calculator"),
        ("openinference_openai", "calculator"),
        ("traceloop_sdk", "calculator"),
    ],
)
def test_the_agent_and_its_tool_are_there(name: str, agent: str) -> None:
    told = understood(name)
    (own,) = [one for one in told if one["operation"] == semconv.OPERATION_AGENT]
    (tool,) = [one for one in told if one["operation"] == semconv.OPERATION_TOOL]
    assert own["agent"] == agent
    assert (tool["tool"], str(tool["result"])) == ("add", "5")
