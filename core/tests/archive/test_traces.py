"""Traces of others become rollouts that can be trained on; our own spans survive the way through OpenTelemetry."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning._episodes import read_episodes
from agentlightning.archive import Kind, Layout, export_store, import_archive
from agentlightning.errors import ConfigError, Conflict
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.store import MemoryStore, SpanQuery, Store
from agentlightning.targets import load_target
from agentlightning.types import AttemptStatus, Experience, Mode, RolloutStatus, Span

SECOND = 10**9


def value(found: object) -> dict[str, Any]:
    match found:
        case list():
            return {"arrayValue": {"values": [value(one) for one in found]}}
        case int():
            return {"intValue": str(found)}
        case float():
            return {"doubleValue": found}
        case _:
            return {"stringValue": str(found)}


def attributes(found: dict[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(one)} for key, one in found.items()]


def otel_span(trace: int, number: int, *, parent: int = 0, start_s: int = 1, **fields: Any) -> dict[str, Any]:
    span: dict[str, Any] = {
        "traceId": f"{trace:032x}",
        "spanId": f"{number:016x}",
        "name": "chat tiny",
        "startTimeUnixNano": str(start_s * SECOND),
        "endTimeUnixNano": str((start_s + 1) * SECOND),
        "attributes": attributes(fields.pop("attributes", {})),
    }
    if parent:
        span["parentSpanId"] = f"{parent:016x}"
    return span | fields


def request(spans: Iterable[dict[str, Any]]) -> dict[str, Any]:
    scope = {"name": "somebody.else", "version": "3"}
    resource = {"attributes": attributes({"service.name": "bot"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": list(spans)}]}]}


def foreign_trace(trace: int, *, question: str = "1+1?", score: float = 1.0) -> list[dict[str, Any]]:
    """An agent with one call, as somebody else's instrumentation records it; children end before their parent."""
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": question}]}])
    call = otel_span(
        trace,
        2,
        parent=1,
        start_s=2,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "tiny",
            "gen_ai.input.messages": messages,
            "agl.tokens.prompt": [5, 6, 7],
            "agl.tokens.response": [8, 9 + trace],
            "agl.logprobs": [-0.25, -0.5],
        },
    )
    verdict = {
        "name": "gen_ai.evaluation.result",
        "timeUnixNano": str(4 * SECOND),
        "attributes": attributes({"gen_ai.evaluation.name": "right", "gen_ai.evaluation.score.value": score}),
    }
    agent = otel_span(
        trace,
        1,
        start_s=1,
        attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "bot"},
        events=[verdict],
        endTimeUnixNano=str(5 * SECOND),
    )
    return [call, agent]


def write_lines(path: Path, requests: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in requests))
    return path


async def spans_of(store: Store) -> list[Span]:
    found = (await store.spans.page(SpanQuery(include_late=True), limit=10_000)).items
    return sorted(found, key=lambda span: (span.attempt_id, span.sequence))


async def test_somebody_elses_traces_can_be_trained_on(other: Store, tmp_path: Path) -> None:
    traces = [request(foreign_trace(trace, score=float(trace % 2))) for trace in (1, 2)]
    path = write_lines(tmp_path / "traces.jsonl", [*traces, request(foreign_trace(3, question="2+2?"))])
    imported = await import_archive(other, path)
    assert (imported.added, imported.rejected) == (3 + 3 + 9, {})
    rollouts = (await other.rollouts.list()).items
    first = rollouts[0]
    assert (first.id, first.mode, first.status) == (f"trace-{1:032x}", Mode.TRAIN, RolloutStatus.SUCCEEDED)
    assert (first.created_at, first.finished_at, first.attempts) == (1.0, 5.0, 1)
    assert first.task == [{"role": "user", "parts": [{"type": "text", "content": "1+1?"}]}]
    assert len({one.group for one in rollouts}) == 2
    specs = {spec.name: spec for spec in BUILTIN_STAGES}
    stages = Pipeline.from_specs(specs, load=lambda spec: load_target(spec.target))
    done = stages.run(Experience(episodes=await read_episodes(other, rollouts)))
    assert [len(group.trajectories) for group in done.groups] == [2, 1]
    assert [one.outcome for one in done.groups[0].trajectories] == [1.0, 0.0]
    (transition,) = done.groups[0].trajectories[0].transitions
    assert (transition.agent, transition.model) == ("bot", "tiny")
    assert transition.tokens is not None
    assert list(transition.tokens.response_ids) == [8, 10]
    assert done.forest is not None
    assert sum(len(tree.calls) for tree in done.forest.trees) == 3


async def test_evaluations_of_the_whole_are_outcomes_and_those_of_a_part_stay_so(
    other: Store, tmp_path: Path
) -> None:
    call, agent = foreign_trace(1)
    call["events"] = agent["events"]
    await import_archive(other, write_lines(tmp_path / "traces.jsonl", [request([call, agent])]))
    rewards = await other.spans.rewards([f"trace-{1:032x}"])
    assert sorted((one.target or "", one.value) for one in rewards) == [("", 1.0), (f"{2:016x}", 1.0)]


async def test_an_archive_of_an_empty_store_is_one(other: Store, archive: Path) -> None:
    for layout in Layout:
        await export_store(other, archive, layout=layout, force=True)
        assert (await import_archive(other, archive)).added == 0


async def test_a_trace_may_be_spread_over_requests_and_come_twice(
    other: Store, store: Store, tmp_path: Path
) -> None:
    spans = [span for trace in range(1, 6) for span in foreign_trace(trace)]
    together = write_lines(tmp_path / "together.json", [request(spans)])
    random.Random(0).shuffle(spans)
    apart = write_lines(tmp_path / "apart.jsonl", [request([span]) for span in [*spans, *spans]])
    await import_archive(other, together)
    async with MemoryStore() as target:
        await import_archive(target, apart)
        assert (await import_archive(target, apart)).added == 0
        found, expected = await spans_of(target), await spans_of(other)
        assert sorted(one.span_id for one in found) == sorted(one.span_id for one in expected)
        assert {one.id for one in (await target.rollouts.list()).items} == {
            one.id for one in (await other.rollouts.list()).items
        }
        for span in expected:
            same = [one for one in found if (one.trace_id, one.span_id) == (span.trace_id, span.span_id)]
            assert [msgspec.structs.replace(one, sequence=span.sequence) for one in same] == [span]


async def test_a_trace_that_grew_is_imported_further(other: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "traces.jsonl", [request(foreign_trace(1))])
    await import_archive(other, path)
    more = otel_span(1, 7, parent=1, start_s=3)
    write_lines(path, [request(foreign_trace(1)), request([more])])
    again = await import_archive(other, path)
    assert (again.added, again.skipped) == (1, 5)


@pytest.mark.parametrize("indent", [None, 2])
async def test_one_request_alone_may_have_many_lines(
    other: Store, tmp_path: Path, indent: int | None
) -> None:
    text = json.dumps(request(foreign_trace(1)), indent=indent)
    (tmp_path / "traces.json").write_text(text)
    assert (await import_archive(other, tmp_path / "traces.json")).added == 5


async def test_traces_may_be_compressed(other: Store, tmp_path: Path) -> None:
    data = json.dumps(request(foreign_trace(1))).encode() + b"\n"
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress(data))
    assert (await import_archive(other, path)).added == 5
    for broken in (gzip.compress(data)[:-20], gzip.compress(data)[:10] + b"\xff" * 40, b"no gzip"):
        path.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"traces\.jsonl\.gz"):
            await import_archive(other, path)


async def test_spans_that_cannot_be_used_are_counted_by_reason(other: Store, tmp_path: Path) -> None:
    nameless = otel_span(1, 9) | {"traceId": "0" * 32}
    path = write_lines(tmp_path / "traces.jsonl", [request([*foreign_trace(1), nameless])])
    imported = await import_archive(other, path)
    assert imported.added == 5
    assert list(imported.rejected.values()) == [1]


async def test_reasons_are_not_collected_without_end(other: Store, tmp_path: Path) -> None:
    nameless = [otel_span(1, number) | {"spanId": "x" * number} for number in range(1, 60)]
    path = write_lines(tmp_path / "traces.jsonl", [request([*foreign_trace(1), *nameless])])
    imported = await import_archive(other, path)
    assert sum(imported.rejected.values()) == 59
    assert len(imported.rejected) <= 21


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{", "hello", '{"resourceSpans": 1}', "\x00"])
async def test_what_are_no_traces_is_said_to_be_none(other: Store, tmp_path: Path, text: str) -> None:
    (tmp_path / "traces.json").write_text(text)
    with pytest.raises(ConfigError, match=r"traces\.json"):
        await import_archive(other, tmp_path / "traces.json")
    assert (await other.statistics()).attempts == 0


async def test_our_spans_survive_as_traces(store: Store, other: Store, archive: Path) -> None:
    manifest = await export_store(store, archive, layout=Layout.OTLP, compress=True, unfinished=True)
    assert manifest.counts == {Kind.SPANS: 9}
    await import_archive(other, archive)
    assert await spans_of(other) == await spans_of(store)
    bad = (await other.rollouts.get("bad"), await other.rollouts.attempts(["bad"]))
    assert (bad[0].status, bad[0].attempts) == (RolloutStatus.SUCCEEDED, 2)
    assert [one.status for one in bad[1]] == [AttemptStatus.FAILED, AttemptStatus.SUCCEEDED]
    assert (await import_archive(other, archive)).added == 0


async def test_traces_of_rollouts_that_are_there_as_they_were_are_a_conflict(
    store: Store, archive: Path
) -> None:
    await export_store(store, archive, layout=Layout.OTLP)
    with pytest.raises(Conflict, match=r"'good' is taken .* nothing was imported"):
        await import_archive(store, archive)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), sizes=st.lists(st.integers(1, 3), min_size=8, max_size=8))
async def test_traces_in_any_order_and_requests_of_any_size_give_the_same_rollouts(
    tmp_path: Path, order: list[int], sizes: list[int]
) -> None:
    spans = [span for trace in range(1, 5) for span in foreign_trace(trace)]
    mixed = [spans[index] for index in order]
    requests = []
    while mixed:
        size = sizes[len(requests)]
        requests.append(request(mixed[:size]))
        mixed = mixed[size:]
    path = write_lines(tmp_path / "traces.jsonl", requests)
    async with MemoryStore() as target:
        assert (await import_archive(target, path)).added == 4 + 4 + 12
        rollouts = (await target.rollouts.list()).items
        assert {(one.created_at, one.finished_at, one.task is None) for one in rollouts} == {
            (1.0, 5.0, False)
        }
