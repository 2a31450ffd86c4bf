"""Spans of other people's exporters, in both encodings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.capture.otlp import JSON, PROTOBUF, Decoded, MalformedTelemetry, Reading, decode_traces
from agentlightning.errors import LimitExceeded
from agentlightning.types import RewardSource, SpanSource, SpanStatus, pack_floats, pack_ints, reward_of

Read = Callable[..., Decoded]
AGENT = Reading(
    rollout_id="own", attempt_id="own.1", trusted=False, reward_source=RewardSource.AGENT, attributes=1000
)


def test_a_chat_span_is_read_whole(read: Read) -> None:
    (span,) = read(
        {
            "parent_span_id": "00f067aa0ba902b7",
            "name": "chat m",
            "start_time_unix_nano": 10,
            "end_time_unix_nano": 30,
            "status": {"code": 2, "message": "broken"},
            "attributes": {
                "gen_ai.operation.name": "chat",
                "gen_ai.agent.name": "writer",
                "gen_ai.input.messages": '[{"role":"user","parts":[]}]',
                "gen_ai.output.messages": [{"role": "assistant", "parts": []}],
                "gen_ai.usage.input_tokens": 7,
                "gen_ai.request.temperature": 1.0,
                "gen_ai.request.stream": True,
                "some.json": '{"stays": "text"}',
                "raw": b"\x00\x01",
                "nothing": None,
            },
        }
    ).spans
    assert (span.rollout_id, span.attempt_id) == ("r1", "r1.1")
    assert (span.trace_id, span.span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (span.parent_id, span.name, span.operation) == ("00f067aa0ba902b7", "chat m", "chat")
    assert (span.source, span.agent) == (SpanSource.OTLP, "writer")
    assert (span.start_ns, span.end_ns) == (10, 30)
    assert (span.status, span.error) == (SpanStatus.ERROR, "broken")
    assert span.attributes == {
        "gen_ai.agent.name": "writer",
        "gen_ai.input.messages": [{"role": "user", "parts": []}],
        "gen_ai.output.messages": [{"role": "assistant", "parts": []}],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.stream": True,
        "some.json": '{"stays": "text"}',
        "raw": "AAE=",
        "nothing": None,
        "otel.scope.name": "somebody",
    }
    assert type(span.attributes["gen_ai.request.temperature"]) is float


@pytest.mark.parametrize(
    ("attributes", "resource", "expected"),
    [
        (
            {"agl.rollout.id": "span", "agl.attempt.id": "span.1"},
            {"agl.rollout.id": "res", "agl.attempt.id": "res.1"},
            ("span", "span.1"),
        ),
        (
            {"baggage.agl.rollout.id": "bag", "baggage.agl.attempt.id": "bag.1"},
            {"agl.rollout.id": "res", "agl.attempt.id": "res.1"},
            ("res", "res.1"),
        ),
        ({"baggage.agl.rollout.id": "bag", "baggage.agl.attempt.id": "bag.1"}, {}, ("bag", "bag.1")),
        ({}, {}, ("", "")),
        ({"agl.rollout.id": 5, "agl.attempt.id": ""}, {}, ("", "")),
    ],
)
def test_the_attempt_is_named_by_the_span_before_its_resource_before_baggage(
    read: Read, attributes: dict[str, Any], resource: dict[str, Any], expected: tuple[str, str]
) -> None:
    (span,) = read({"attributes": attributes}, resource=resource).spans
    assert (span.rollout_id, span.attempt_id) == expected
    assert "agl.rollout.id" not in span.attributes


def test_an_agents_spans_are_of_its_own_attempt_whatever_they_say(read: Read) -> None:
    claims = {"agl.rollout.id": "other", "agl.attempt.id": "other.1"}
    (span,) = read({"attributes": claims}, resource=claims, reading=AGENT).spans
    assert (span.rollout_id, span.attempt_id) == ("own", "own.1")
    assert span.attributes == {"otel.scope.name": "somebody"}


def test_an_agent_is_not_believed_tokens_source_and_ids_of_another_form(read: Read) -> None:
    claims = {
        "agl.tokens.response": [1, 2],
        "agl.logprobs": [-0.1, -0.2],
        "agl.span.source": "gateway",
        "agl.span.id": "agl-truncated",
        "agl.span.sequence": 9,
        "agl.span.late": True,
        "gen_ai.operation.name": "agl.truncated",
    }
    (span,) = read({"attributes": claims}, reading=AGENT).spans
    assert (span.tokens, span.source, span.span_id) == ((), SpanSource.OTLP, "b7ad6b7169203331")
    assert (span.sequence, span.late, span.operation) == (0, False, "agl.operation")
    assert span.attributes["agl.notes"] == [
        "token records are not believed from an agent; call the model through the gateway"
    ]


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "agl.tokens.prompt": pack_ints([1, 2]),
            "agl.tokens.response": pack_ints([3]),
            "agl.logprobs": pack_floats([-0.5]),
        },
        {"agl.tokens.prompt": [1, 2], "agl.tokens.response": [3], "agl.logprobs": [-0.5]},
        {"agl.tokens.prompt": [[1, 2]], "agl.tokens.response": [[3]], "agl.logprobs": [[-0.5]]},
    ],
)
def test_tokens_are_believed_from_whoever_is_trusted(read: Read, attributes: dict[str, Any]) -> None:
    more = {"agl.policy.version": 4, "gen_ai.response.finish_reasons": ["stop"]}
    (span,) = read({"attributes": {**attributes, **more}}).spans
    (record,) = span.tokens
    assert (list(record.prompt_ids), list(record.response_ids)) == ([1, 2], [3])
    assert list(record.response_logprobs) == [-0.5]
    assert (record.version, record.finish_reason, record.incomplete) == (4, "stop", "")
    assert span.attributes["agl.policy.version"] == 4


def test_several_choices_share_a_prompt_and_a_version(read: Read) -> None:
    attributes = {
        "agl.tokens.prompt": [[1]],
        "agl.tokens.response": [[2], [3, 4]],
        "agl.logprobs": [[-0.5], [-0.25, 0]],
        "agl.policy.version": 2,
    }
    (span,) = read({"attributes": attributes}).spans
    assert [list(record.prompt_ids) for record in span.tokens] == [[1], [1]]
    assert [list(record.response_ids) for record in span.tokens] == [[2], [3, 4]]
    assert [record.version for record in span.tokens] == [2, 2]


NESTED_128: Any = 0
for _ in range(128):
    NESTED_128 = [NESTED_128]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"span_id": ""}, "the id of the span is ''"),
        ({"span_id": "00" * 8}, "not all of them 0"),
        ({"span_id": "abcd"}, "it has 16 hexadecimal digits"),
        ({"trace_id": "00" * 16}, "the id of the trace"),
        ({"trace_id": "ab" * 8}, "it has 32 hexadecimal digits"),
        ({"parent_span_id": "abcd"}, "the id of the parent is 'abcd'"),
        ({"attributes": {"x": float("nan")}}, "an attribute is nan"),
        ({"attributes": {"x": [{"y": float("-inf")}]}}, "an attribute is -inf"),
        ({"attributes": {"x": [NESTED_128]}}, "nested"),
        ({"start_time_unix_nano": 2**63}, "the start is 9223372036854775808, which is no time"),
        ({"name": "a\0b"}, "NUL"),
        ({"attributes": {"agl.attempt.id": "a" * 1025}}, "more than 1024 characters"),
        ({"attributes": {"gen_ai.operation.name": "agl.reward"}}, "a reward must be a number"),
        (
            {
                "attributes": {
                    "gen_ai.operation.name": "agl.reward",
                    "gen_ai.evaluation.score.value": True,
                }
            },
            "a reward must be a number",
        ),
        (
            {
                "attributes": {
                    "gen_ai.operation.name": "agl.reward",
                    "gen_ai.evaluation.score.value": 1,
                    "agl.reward.source": "me",
                }
            },
            "unknown source",
        ),
        ({"attributes": {"agl.tokens.response": b"12345"}}, "it has 5 bytes"),
        ({"attributes": {"agl.tokens.response": [2**40]}}, "agl.tokens.response"),
        ({"attributes": {"agl.tokens.response": [0.5]}}, "agl.tokens.response"),
        ({"attributes": {"agl.tokens.response": 5}}, "it is 5"),
        ({"attributes": {"agl.logprobs": [1e300]}}, "not finite"),
        ({"attributes": {"agl.tokens.response": [1], "agl.tokens.version": "x"}}, "version"),
        ({"attributes": {"agl.span.sequence": "x"}}, "agl.span.sequence is an integer"),
    ],
)
def test_what_is_wrong_with_one_span_rejects_it_alone(read: Read, item: dict[str, Any], reason: str) -> None:
    found = read({"span_id": "0000000000000001"}, item, {"span_id": "0000000000000003"})
    assert [span.span_id for span in found.spans] == ["0000000000000001", "0000000000000003"]
    (rejection,) = found.rejected
    assert reason in rejection.reason


def test_a_value_of_the_deepest_nesting_is_taken(read: Read, content_type: str) -> None:
    deepest: Any = 0
    for _ in range(128 if content_type == JSON else 40):
        deepest = [deepest]
    (span,) = read({"attributes": {"x": deepest}}).spans
    assert span.attributes["x"] == deepest


def test_an_end_before_the_start_is_moved_and_noted(read: Read) -> None:
    (span,) = read({"start_time_unix_nano": 20, "end_time_unix_nano": 15}).spans
    assert (span.start_ns, span.end_ns) == (20, 20)
    assert span.attributes["agl.notes"] == ["the end was 5 ns before the start, and was moved there"]


def test_attributes_beyond_the_limit_are_dropped_and_noted(read: Read) -> None:
    many = {f"k{index}": index for index in range(30)}
    event = {"name": "e", "time_unix_nano": 1}
    item = {"attributes": many, "events": [event] * 12, "dropped_attributes_count": 3}
    (span,) = read(item, reading=Reading(attributes=10)).spans
    assert "k9" in span.attributes
    assert "k10" not in span.attributes
    assert len(span.attributes["agl.events"]) == 10  # type: ignore[arg-type]
    (note,) = span.attributes["agl.notes"]  # type: ignore[misc]
    assert str(note).startswith("25 attributes or events are missing")


def test_long_text_is_cut_with_a_mark(read: Read) -> None:
    item = {"attributes": {"x": ["a" * 30]}, "status": {"code": 2, "message": "b" * 30}, "name": "n" * 2000}
    (span,) = read(item, reading=Reading(text=20)).spans
    assert span.attributes["x"] == [f"{'a' * 20}… [10 of 30 characters cut]"]
    assert span.error == f"{'b' * 20}… [10 of 30 characters cut]"
    assert len(span.name) < 1100


def test_more_items_than_the_limit_are_refused_as_a_whole(read: Read) -> None:
    with pytest.raises(LimitExceeded, match="may have 2 items"):
        read({}, {}, {}, reading=Reading(items=2))


def test_keys_that_look_like_paths_into_objects_are_data(read: Read) -> None:
    keys = {"__proto__.polluted": "1", "constructor": {"prototype": 1}, "a.b[0].c": 2, "": 3}
    (span,) = read({"attributes": keys}, scope="").spans
    assert span.attributes == keys


def test_text_that_is_no_json_a_store_takes_stays_text(read: Read) -> None:
    texts = ["{not json", f"[{2**70}]", "[" * 600 + "]" * 600, "[" * 90_000, '"\\ud800"', "[" * 510_000]
    for text in texts:
        (span,) = read({"attributes": {"gen_ai.input.messages": text}}, scope="").spans
        assert span.attributes == {"gen_ai.input.messages": text}


def test_foreign_events_are_kept_and_evaluations_become_rewards(read: Read) -> None:
    evaluation = {"gen_ai.evaluation.name": "correct", "gen_ai.evaluation.score.value": 0.5}
    found = read(
        {
            "events": [
                {"name": "gen_ai.choice", "time_unix_nano": 5, "attributes": {"index": 0}},
                {"name": "gen_ai.evaluation.result", "time_unix_nano": 6, "attributes": evaluation},
                {
                    "name": "gen_ai.evaluation.result",
                    "time_unix_nano": 7,
                    "attributes": {**evaluation, "agl.reward.source": "agent"},
                },
                {"name": "gen_ai.evaluation.result", "attributes": {"gen_ai.evaluation.score.label": "good"}},
            ]
        }
    )
    span, rewarding = found.spans
    assert [event["name"] for event in span.attributes["agl.events"]] == [  # type: ignore[attr-defined]
        "gen_ai.choice",
        "gen_ai.evaluation.result",
    ]
    reward = reward_of(rewarding)
    assert reward is not None
    assert (reward.value, reward.dimension, reward.target) == (0.5, "correct", span.span_id)
    assert len(rewarding.span_id) == 16


def test_an_agents_reward_is_an_agents(read: Read) -> None:
    attributes = {
        "gen_ai.operation.name": "agl.reward",
        "gen_ai.evaluation.score.value": 1,
        "agl.reward.source": "grader",
    }
    (span,) = read({"attributes": attributes}, reading=AGENT).spans
    reward = reward_of(span)
    assert reward is not None
    assert reward.source is RewardSource.AGENT


def test_json_takes_enums_by_name_numbers_as_numbers_and_unknown_fields() -> None:
    span = {
        "traceId": "0AF7651916CD43DD8448EB211C80319C",
        "spanId": "B7AD6B7169203331",
        "parentSpanId": None,
        "name": "s",
        "kind": "SPAN_KIND_CLIENT",
        "startTimeUnixNano": 5,
        "endTimeUnixNano": "7",
        "status": {"code": "STATUS_CODE_ERROR"},
        "attributes": [
            {"key": "i", "value": {"intValue": 5}},
            {"key": "d", "value": {"doubleValue": 1}},
            {"key": "t", "value": {"doubleValue": "2.5"}},
            {"key": "none", "value": None},
            {"key": "missing"},
            {"key": "list", "value": {"arrayValue": {}}},
        ],
        "events": None,
        "somethingNew": [{"deep": 1}],
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}, {"scopeSpans": None}], "new": 1}
    (found,) = decode_traces(json.dumps(body).encode(), JSON).spans
    assert found.span_id == "b7ad6b7169203331"
    assert (found.start_ns, found.end_ns, found.status, found.parent_id) == (5, 7, SpanStatus.ERROR, None)
    assert found.attributes == {"i": 5, "d": 1.0, "t": 2.5, "none": None, "missing": None, "list": []}


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ({"spanId": 5}, "it is no OTLP JSON"),
        ({"attributes": [{"key": "x", "value": {"intValue": "1_0"}}]}, "is no integer"),
        ({"attributes": [{"key": "x", "value": {"intValue": str(2**63)}}]}, "wider than 64 bits"),
        ({"attributes": [{"key": "x", "value": {"doubleValue": "x"}}]}, "is no number"),
        ({"status": {"code": "STATUS_CODE_WRONG"}}, "is no integer"),
        ({"traceId": "CvdlGRbNQ92ESOshHIAxnA=="}, "hexadecimal"),
    ],
)
def test_json_of_the_wrong_type_rejects_its_span_alone(span: dict[str, Any], reason: str) -> None:
    good = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [good, {**good, **span}]}]}]}
    found = decode_traces(json.dumps(body).encode(), JSON)
    assert len(found.spans) == 1
    (rejection,) = found.rejected
    assert reason in rejection.reason


def test_a_resource_that_cannot_be_read_rejects_its_spans_alone(read: Read) -> None:
    found = read({}, {}, resource={"x": float("nan")})
    assert found.spans == ()
    assert [rejection.reason[:12] for rejection in found.rejected] == ["its resource"] * 2


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON),
        (b"[]", JSON),
        (b'{"resourceSpans": 5}', JSON),
        (b'{"resourceSpans": ' + b"[" * 5000, JSON),
        (b'{"a": "\\ud800"}', JSON),
        (b'{"resourceSpans": [1e999]}', JSON),
        (b"\xff\xff", PROTOBUF),
        (b"\x0a\x05ab", PROTOBUF),
        (b"\x0a", PROTOBUF),
        (b"{}", "text/plain"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(MalformedTelemetry):
        decode_traces(body, content_type)


def test_an_empty_request_has_no_spans() -> None:
    assert decode_traces(b"", PROTOBUF) == decode_traces(b"{}", JSON) == Decoded(spans=())


def length_of(number: int) -> bytes:
    """A protobuf varint."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def field(number: int, data: bytes) -> bytes:
    """A protobuf field with a length."""
    return bytes([number << 3 | 2]) + length_of(len(data)) + data


@pytest.mark.parametrize(
    "body",
    [
        field(1, b"") * 1_000_001,
        field(1, field(2, b"") * 1_000_001),
        field(1, field(2, field(2, b"") * 1_000_001)),
    ],
    ids=["resources", "scopes", "spans"],
)
def test_a_request_of_nothing_but_empty_messages_is_refused(body: bytes) -> None:
    with pytest.raises(LimitExceeded, match="more than 1000000 resources, scopes and items"):
        decode_traces(body, PROTOBUF)


def test_a_span_of_nothing_but_empty_attributes_is_rejected() -> None:
    full = field(1, bytes(range(1, 17))) + field(2, bytes(range(1, 9)))
    fat = full + field(9, b"") * 50_001
    body = field(1, field(2, field(2, fat) + field(2, full)))
    found = decode_traces(body, PROTOBUF)
    assert len(found.spans) == 1
    assert "more than 50000 attributes" in found.rejected[0].reason


def test_a_span_of_too_many_bytes_is_rejected() -> None:
    body = traces_with("x" * 500)
    assert len(decode_traces(body, PROTOBUF).spans) == 1
    (rejection,) = decode_traces(body, PROTOBUF, reading=Reading(item_bytes=500)).rejected
    assert "500 are taken" in rejection.reason


def traces_with(text: str) -> bytes:
    """A request of one span."""
    span = field(1, bytes(range(1, 17))) + field(2, bytes(range(1, 9))) + field(5, text.encode())
    return field(1, field(2, field(2, span)))


def test_fields_may_come_in_any_order_and_messages_in_parts() -> None:
    ids = field(1, bytes(range(1, 17))) + field(2, bytes(range(1, 9)))
    text = field(1, b"agl.attempt.id") + field(2, field(1, b"r.1"))
    more = field(1, b"agl.rollout.id") + field(2, field(1, b"r"))
    scope = field(2, ids) + b"\x28\x07\x31" + bytes(8) + b"\x3d" + bytes(4) + field(1, field(1, b"late"))
    resource = field(2, scope) + field(1, field(1, text)) + field(1, field(1, more))
    (span,) = decode_traces(field(1, resource), PROTOBUF).spans
    assert (span.rollout_id, span.attempt_id) == ("r", "r.1")
    assert span.attributes == {"otel.scope.name": "late"}
