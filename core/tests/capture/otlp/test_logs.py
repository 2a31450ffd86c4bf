"""Log records: messages, calls and evaluations that were sent as events, in both encodings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.capture.otlp import JSON, Decoded, MalformedTelemetry, Reading, decode_logs
from agentlightning.types import RewardSource, SpanSource, SpanStatus, reward_of

Read = Callable[..., Decoded]
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INSIDE = {"trace_id": TRACE_ID, "span_id": SPAN_ID}
CALL: dict[str, Any] = {
    "event_name": "gen_ai.client.inference.operation.details",
    "time_unix_nano": 7,
    "attributes": {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}],
    },
}


def test_a_line_of_a_log_is_a_message(read_logs: Read) -> None:
    item = {
        **INSIDE,
        "observed_time_unix_nano": 9,
        "severity_number": 9,
        "severity_text": "INFO",
        "body": "a line",
        "attributes": {"code.file": "x.py"},
    }
    (span,) = read_logs(item).spans
    assert (span.rollout_id, span.attempt_id) == ("r1", "r1.1")
    assert (span.operation, span.name, span.source) == ("agl.message", "log", SpanSource.OTLP)
    assert (span.trace_id, span.parent_id) == (TRACE_ID, SPAN_ID)
    assert (span.start_ns, span.end_ns, span.status) == (9, 9, SpanStatus.UNSET)
    assert span.attributes == {"agl.message": "a line", "agl.log.severity": "INFO", "code.file": "x.py"}


def test_the_same_record_has_the_same_id_and_another_one_another(read_logs: Read) -> None:
    first, again, other = read_logs({"body": "x"}, {"body": "x"}, {"body": "y"}).spans
    assert first.span_id == again.span_id != other.span_id
    assert len(first.span_id) == 16


def test_a_record_outside_of_traces_is_in_the_trace_of_its_attempt(read_logs: Read) -> None:
    one, two = read_logs({"body": "x"}, {"body": "y"}).spans
    assert one.trace_id == two.trace_id
    assert (len(one.trace_id), one.parent_id) == (32, None)


def test_an_error_is_one(read_logs: Read) -> None:
    (span,) = read_logs({"severity_number": 17, "body": "broken"}).spans
    assert (span.status, span.error) == (SpanStatus.ERROR, "broken")


def test_an_inference_without_a_span_is_a_call(read_logs: Read) -> None:
    (span,) = read_logs(CALL).spans
    assert (span.operation, span.name) == ("chat", "gen_ai.client.inference.operation.details")
    assert span.attributes["gen_ai.input.messages"] == CALL["attributes"]["gen_ai.input.messages"]


def test_an_inference_within_a_span_does_not_count_twice(read_logs: Read) -> None:
    (span,) = read_logs({**CALL, **INSIDE}).spans
    assert (span.operation, span.parent_id) == ("agl.message", SPAN_ID)
    assert "gen_ai.input.messages" in span.attributes


def test_messages_of_older_conventions_keep_their_body(read_logs: Read) -> None:
    body = {"index": 0, "message": {"role": "assistant", "content": "hi"}}
    (span,) = read_logs({"body": body, "attributes": {"event.name": "gen_ai.choice"}}).spans
    assert (span.name, span.operation) == ("gen_ai.choice", "agl.message")
    assert span.attributes["agl.message"] == body


def test_an_evaluation_is_a_reward_of_the_span_it_was_logged_in(read_logs: Read) -> None:
    attributes = {
        "gen_ai.evaluation.name": "correct",
        "gen_ai.evaluation.score.value": 0.25,
        "gen_ai.evaluation.explanation": "why",
    }
    item = {"event_name": "gen_ai.evaluation.result", "attributes": attributes}
    inside, outside = read_logs(
        {**item, **INSIDE}, item, reading=Reading(reward_source=RewardSource.GRADER)
    ).spans
    reward, whole = reward_of(inside), reward_of(outside)
    assert reward is not None
    assert whole is not None
    assert (reward.value, reward.dimension, reward.reason) == (0.25, "correct", "why")
    assert (reward.target, reward.source) == (SPAN_ID, RewardSource.GRADER)
    assert whole.target is None


def test_an_evaluation_without_a_number_is_a_message(read_logs: Read) -> None:
    attributes = {"gen_ai.evaluation.score.label": "good"}
    (span,) = read_logs({"event_name": "gen_ai.evaluation.result", "attributes": attributes}).spans
    assert span.operation == "agl.message"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"trace_id": "abcd"}, "the id of the trace"),
        ({"span_id": "abcd"}, "the id of the parent"),
        ({"body": {"x": [float("nan")]}}, "nan"),
        ({"time_unix_nano": 2**63}, "the time"),
        ({"event_name": "a\0"}, "NUL"),
    ],
)
def test_what_is_wrong_with_one_record_rejects_it_alone(
    read_logs: Read, item: dict[str, Any], reason: str
) -> None:
    found = read_logs({"body": "x"}, item)
    assert len(found.spans) == 1
    (rejection,) = found.rejected
    assert reason in rejection.reason


@pytest.mark.parametrize(
    ("name", "number"), [("ERROR", 17), ("FATAL4", 24), ("INFO2", 10), ("UNSPECIFIED", 0)]
)
def test_json_names_severities(name: str, number: int) -> None:
    body = f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"severityNumber":"SEVERITY_NUMBER_{name}"}}]}}]}}]}}'
    (span,) = decode_logs(body.encode(), JSON).spans
    assert span.attributes.get("agl.log.severity", 0) == number


def test_a_body_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedTelemetry, match="not as 'text/plain'"):
        decode_logs(b"", "text/plain")
