"""What is written is read again, exactly."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.capture._convert import JSON_ATTRIBUTES
from agentlightning.capture.otlp import (
    JSON,
    PROTOBUF,
    MalformedTelemetry,
    decode_logs,
    decode_traces,
    encode_traces,
    names,
)
from agentlightning.types import RewardSource, Span, SpanSource, SpanStatus, TokenRecord, reward_span

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
keys = st.one_of(
    text,
    st.sampled_from(sorted(names.OWN | JSON_ATTRIBUTES)),
    st.sampled_from([semconv.OPERATION, semconv.ROLLOUT_ID, semconv.AGENT_NAME, semconv.ERROR_TYPE]),
    st.sampled_from([names.ESCAPE, f"{names.ESCAPE}{names.ESCAPE}x", names.NOTES, "baggage.agl.rollout.id"]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
    st.sampled_from(['"x"', "[1]", "{", "123", "null", "1e999", f"[{2**70}]"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
hexadecimal = "0123456789abcdef"
span_ids = st.one_of(st.text(hexadecimal, min_size=16, max_size=16), name.filter(bool))
trace_ids = st.one_of(st.text(hexadecimal, min_size=32, max_size=32), name.filter(bool))
words = st.binary(max_size=12).map(lambda data: data[: len(data) // 4 * 4])
floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3)


@st.composite
def records(draw: st.DrawFn) -> TokenRecord:
    return msgspec.structs.replace(
        TokenRecord.pack(
            [], [], draw(floats), version=draw(st.integers(-1, 2**31)), finish_reason=draw(text)
        ),
        prompt=draw(words),
        response=draw(words),
        incomplete=draw(text),
    )


def spans(rollout: str, attempt: str) -> st.SearchStrategy[Span]:
    times = st.integers(-(2**63), 2**63 - 1)
    return st.builds(
        Span,
        rollout_id=st.just(rollout),
        attempt_id=st.just(attempt),
        span_id=span_ids,
        trace_id=trace_ids,
        parent_id=st.none() | span_ids,
        name=name,
        operation=name.filter(lambda found: found not in {"", semconv.OPERATION_REWARD}),
        source=st.sampled_from(SpanSource),
        agent=st.none() | name,
        start_ns=times,
        end_ns=times,
        status=st.sampled_from(SpanStatus),
        error=st.none() | text,
        attributes=st.dictionaries(keys, values, max_size=5),
        tokens=st.lists(records(), max_size=3).map(tuple),
        sequence=st.integers(0, 2**40),
        late=st.booleans(),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one=st.lists(spans("r1", "r1.1"), max_size=3), two=st.lists(spans("r1", "r1.2"), max_size=2))
def test_spans_come_back_as_they_were(one: list[Span], two: list[Span]) -> None:
    for content_type in (JSON, PROTOBUF):
        decoded = decode_traces(encode_traces([*one, *two], content_type=content_type), content_type)
        assert decoded.rejected == ()
        assert list(decoded.spans) == [*one, *two]
        assert [_types(span.attributes) for span in decoded.spans] == [
            _types(span.attributes) for span in (*one, *two)
        ]


def _types(value: object) -> object:
    """Types of all parts: `1 == 1.0 == True`, and JSON tells them apart."""
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)


SPAN = Span(
    rollout_id="r",
    attempt_id="r.1",
    span_id="b7ad6b7169203331",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    name="s",
    operation="chat",
    source=SpanSource.GATEWAY,
    start_ns=1,
    end_ns=2,
)


@pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
@pytest.mark.parametrize("depth", [31, 32, 33, 200])
@pytest.mark.parametrize("key", ["x", semconv.STATE])
def test_deep_values_come_back_as_they_were(content_type: str, depth: int, key: str) -> None:
    deep: Any = {"a": 1}
    for _ in range(depth):
        deep = [deep]
    span = msgspec.structs.replace(SPAN, attributes={key: deep})
    decoded = decode_traces(encode_traces([span], content_type=content_type), content_type)
    assert decoded.spans == (span,)


@pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
def test_rewards_come_back_as_they_were(content_type: str) -> None:
    span = reward_span(
        rollout_id="r",
        attempt_id="r.1",
        span_id="b7ad6b7169203331",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        time_ns=5,
        value=0.5,
        dimension="correct",
        target="b7ad6b7169203332",
        source=RewardSource.GRADER,
        reason="why",
    )
    assert decode_traces(encode_traces([span], content_type=content_type), content_type).spans == (span,)


def test_ids_of_another_form_still_link_children_to_parents() -> None:
    root = msgspec.structs.replace(SPAN, span_id="root", trace_id="trace")
    child = msgspec.structs.replace(SPAN, span_id="child", trace_id="trace", parent_id="root")
    request = msgspec.json.decode(encode_traces([root, child]))
    one, two = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert two["parentSpanId"] == one["spanId"]
    assert two["traceId"] == one["traceId"]
    assert len(one["spanId"]), len(one["traceId"]) == (16, 32)


def test_each_attempt_is_a_resource_that_names_it() -> None:
    other = msgspec.structs.replace(SPAN, attempt_id="r.2")
    request = msgspec.json.decode(encode_traces([SPAN, other, SPAN]))
    named = [
        {pair["key"]: pair["value"]["stringValue"] for pair in found["resource"]["attributes"]}
        for found in request["resourceSpans"]
    ]
    assert [found["agl.attempt.id"] for found in named] == ["r.1", "r.2"]
    assert named[0]["service.name"] == "agentlightning"


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="'text/plain'"):
        encode_traces([SPAN], content_type="text/plain")


BODIES = {
    content_type: encode_traces(
        [
            SPAN,
            msgspec.structs.replace(
                SPAN,
                status=SpanStatus.ERROR,
                error="é",
                attributes={"x": [1, {"y": 2.5}], "z": None},
                tokens=(TokenRecord.pack([1], [2], [-0.5], version=1),),
            ),
        ],
        content_type=content_type,
    )
    for content_type in (JSON, PROTOBUF)
}


def read_whatever(body: bytes, content_type: str) -> None:
    """Reads a body both ways; everything but spans, rejections and our own error fails the test."""
    for decode in (decode_traces, decode_logs):
        with suppress(MalformedTelemetry):
            decode(body, content_type)


@pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
def test_a_body_cut_anywhere_is_read_or_refused(content_type: str) -> None:
    body = BODIES[content_type]
    for size in range(len(body)):
        read_whatever(body[:size], content_type)
    assert len(decode_traces(body, content_type).spans) == 2


@settings(max_examples=400, deadline=None)
@given(body=st.binary(max_size=200), content_type=st.sampled_from([JSON, PROTOBUF]))
@example(body=b"\x0a\x02\x12\x00", content_type=PROTOBUF)
def test_random_bytes_are_read_or_refused(body: bytes, content_type: str) -> None:
    read_whatever(body, content_type)


@settings(max_examples=600, deadline=None)
@given(data=st.data(), content_type=st.sampled_from([JSON, PROTOBUF]))
def test_a_body_with_bytes_changed_is_read_or_refused(data: st.DataObject, content_type: str) -> None:
    body = bytearray(BODIES[content_type])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_whatever(bytes(body), content_type)


FIELDS = """
    resourceSpans scopeSpans spans resourceLogs scopeLogs logRecords resource attributes key value arrayValue
    kvlistValue values stringValue intValue doubleValue traceId spanId status code events body timeUnixNano
    severityNumber droppedAttributesCount
""".split()  # noqa: SIM905 - a list of one word a line says no more
json_values = st.recursive(
    scalars | st.sampled_from(["NaN", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json_values)
def test_json_of_any_shape_is_read_or_refused(value: object) -> None:
    body = msgspec.json.encode(value)
    read_whatever(body, JSON)
    for outer in (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[%s]}]}]}',
    ):
        read_whatever(outer % body, JSON)
