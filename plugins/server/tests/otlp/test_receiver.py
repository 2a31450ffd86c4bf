"""The endpoints, one request at a time."""

from __future__ import annotations

import asyncio
import gzip
import resource
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentlightning.apps import AsgiApp
from agentlightning.capture.otlp import JSON, PROTOBUF, encode_traces
from agentlightning.credentials import KeyRing, Scope
from agentlightning.errors import StoreUnavailable
from agentlightning.store import Limits, MemoryStore, SpanQuery
from agentlightning.types import (
    RewardSource,
    RolloutRequest,
    Span,
    SpanSource,
    TokenRecord,
    reward_of,
    reward_span,
)
from lightning_plugin_server import create_app
from lightning_plugin_server.testing import running_server

Post = Callable[..., Any]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(params=[PROTOBUF, JSON])
def content_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def span(site: Any, number: int = 1, *, place: int = 0, **fields: Any) -> Span:
    """A span of one of the attempts."""
    lease = site.leases[place]
    made = Span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id=f"{number:016x}",
        trace_id=TRACE_ID,
        name="chat m",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=1,
        end_ns=2,
        tokens=(TokenRecord.pack([1], [2], [-0.5], version=3),),
    )
    return msgspec.structs.replace(made, **fields)


def rejections(body: bytes, content_type: str) -> tuple[int, str]:
    """How many spans were rejected, and why."""
    if content_type == JSON:
        partial = msgspec.json.decode(body).get("partialSuccess", {})
        return int(partial.get("rejectedSpans", 0)), partial.get("errorMessage", "")
    partial = ExportTraceServiceResponse.FromString(body).partial_success
    return partial.rejected_spans, partial.error_message


@pytest.mark.parametrize(
    ("encoding", "compress"), [("", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_trainers_spans_are_believed_in_every_encoding(
    site: Any, sender: Post, content_type: str, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    sent = [span(site), span(site, place=1)]
    body = compress(encode_traces(sent, content_type=content_type))
    key = site.server.key_for(Scope.TRAINER)
    answer = sender(
        f"{site.server.url}/v1/traces", body, key=key, content_type=content_type, encoding=encoding
    )
    assert (answer.status, answer.headers["content-type"]) == (200, content_type)
    assert answer.body == (b"{}" if content_type == JSON else b"")
    for place, expected in enumerate(sent):
        assert site.spans(place) == [msgspec.structs.replace(expected, sequence=1)]


def test_an_agents_spans_land_in_its_own_attempt_without_tokens(
    site: Any, sender: Post, content_type: str
) -> None:
    body = encode_traces([span(site, place=1)], content_type=content_type)
    answer = sender(f"{site.server.url}/v1/traces", body, key=site.agent_key(), content_type=content_type)
    assert answer.status == 200
    assert site.spans(1) == []
    (found,) = site.spans(0)
    assert (found.source, found.tokens) == (SpanSource.OTLP, ())


def test_an_agents_reward_is_stored_as_an_agents(site: Any, sender: Post) -> None:
    lease = site.leases[0]
    reward = reward_span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id="00000000000000aa",
        trace_id=TRACE_ID,
        time_ns=1,
        value=1.0,
        source=RewardSource.GRADER,
    )
    sender(f"{site.server.url}/v1/traces", encode_traces([reward]), key=site.agent_key(), content_type=JSON)
    (found,) = site.spans()
    stored = reward_of(found)
    assert stored is not None
    assert stored.source is RewardSource.AGENT


def test_a_grader_sends_rewards_only(site: Any, sender: Post, content_type: str) -> None:
    lease = site.leases[1]
    reward = reward_span(
        rollout_id=lease.rollout.id,
        attempt_id=lease.attempt.id,
        span_id="00000000000000aa",
        trace_id=TRACE_ID,
        time_ns=1,
        value=0.5,
    )
    answer = sender(
        f"{site.server.url}/v1/traces",
        encode_traces([reward, span(site, 2)], content_type=content_type),
        key=site.server.key_for(Scope.REWARD),
        content_type=content_type,
    )
    count, message = rejections(answer.body, content_type)
    assert (answer.status, count) == (200, 1)
    assert "'agl.reward' only" in message
    (found,) = site.spans(1)
    stored = reward_of(found)
    assert stored is not None
    assert stored.source is RewardSource.GRADER


def test_what_cannot_be_taken_costs_nobody_else(site: Any, sender: Post, content_type: str) -> None:
    sent = [
        span(site, 1),
        span(site, 2, attempt_id="nobody's"),
        span(site, 3, rollout_id="", attempt_id=""),
        span(site, 4, place=1),
    ]
    answer = sender(
        f"{site.server.url}/v1/traces",
        encode_traces(sent, content_type=content_type),
        key=site.server.key_for(Scope.RUNNER),
        content_type=content_type,
    )
    count, message = rejections(answer.body, content_type)
    assert (answer.status, count) == (200, 2)
    assert 'no attempt "nobody\'s"' in message
    assert "OTEL_RESOURCE_ATTRIBUTES" in message
    assert len(site.spans(0)) == len(site.spans(1)) == 1


def test_a_request_that_comes_again_changes_nothing(site: Any, sender: Post) -> None:
    body = encode_traces([span(site, 1), span(site, 2)])
    for _ in range(2):
        answer = sender(
            f"{site.server.url}/v1/traces",
            body,
            key=site.agent_key(),
            content_type="application/json; charset=utf-8",
        )
        assert (answer.status, answer.body) == (200, b"{}")
    assert [found.sequence for found in site.spans()] == [1, 2]


def test_log_records_are_messages_and_bad_ones_are_counted(site: Any, sender: Post) -> None:
    records = [{"body": {"stringValue": "a line"}}, {"traceId": "abcd"}]
    body = msgspec.json.encode({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    url = f"{site.server.url}/v1/logs"
    answer = sender(url, body, key=site.agent_key(), content_type=JSON)
    partial = msgspec.json.decode(answer.body)["partialSuccess"]
    assert partial["rejectedLogRecords"] == "1"
    (found,) = site.spans()
    assert (found.operation, found.attributes["agl.message"]) == ("agl.message", "a line")
    answer = sender(url, b"", key=site.agent_key(), content_type=PROTOBUF)
    assert ExportLogsServiceResponse.FromString(answer.body).partial_success.rejected_log_records == 0


@pytest.mark.parametrize(
    "request_and_status",
    [
        ("traces", "", JSON, "", b"{}", 401),
        ("traces", "viewer", JSON, "", b"{}", 403),
        ("traces", "nameless", JSON, "", b"{}", 403),
        ("traces", "agent", "text/plain", "", b"{}", 415),
        ("traces", "agent", "", "", b"{}", 415),
        ("traces", "agent", JSON, "br", b"{}", 415),
        ("traces", "agent", JSON, "gzip", b"{}", 400),
        ("traces", "agent", JSON, "", b"{", 400),
        ("traces", "agent", PROTOBUF, "", b"\xff", 400),
        ("logs", "agent", PROTOBUF, "", b"\xff", 400),
        ("logs", "", PROTOBUF, "", b"", 401),
        ("metrics", "agent", JSON, "", b"{}", 404),
    ],
)
def test_refusals(site: Any, sender: Post, request_and_status: tuple[str, str, str, str, bytes, int]) -> None:
    path, key, content_type, encoding, body, status = request_and_status
    keys = {
        "": "",
        "agent": site.agent_key(),
        "viewer": site.server.key_for(Scope.VIEWER),
        "nameless": site.server.key_for(Scope.AGENT),
    }
    answer = sender(
        f"{site.server.url}/v1/{path}", body, key=keys[key], content_type=content_type, encoding=encoding
    )
    assert answer.status == status
    if status in {400, 415}:
        assert answer.headers["content-type"] == (PROTOBUF if content_type == PROTOBUF else JSON)
    if status == 400 and content_type == JSON:
        told = msgspec.json.decode(answer.body)
        assert told["code"] == 3
        assert told["message"] == told["error"]["message"]
    if status == 400 and content_type == PROTOBUF:
        assert answer.body.startswith(b"\x08\x03\x12")


def zeros() -> bytes:
    """1 GiB of zeros, compressed: a full flush makes pieces that can be repeated."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH)
    piece = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + piece * 1024


def empty_messages() -> bytes:
    """30 million empty messages, compressed: as objects they would need gigabytes."""
    return gzip.compress(b"\x0a\x00" * 30_000_000, compresslevel=1)


@pytest.mark.parametrize("make", [zeros, empty_messages])
def test_a_bomb_is_refused_with_flat_memory(site: Any, sender: Post, make: Callable[[], bytes]) -> None:
    bomb = make()
    assert len(bomb) < 2 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = sender(
        f"{site.server.url}/v1/traces", bomb, key=site.agent_key(), content_type=PROTOBUF, encoding="gzip"
    )
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert answer.status == 413
    assert answer.body.startswith(b"\x08\x08\x12")
    assert grown_kib < 256 * 1024


def test_a_body_of_nothing_but_objects_is_refused(site: Any, sender: Post) -> None:
    body = b'{"resourceSpans":[' + b"{}," * 2_000_000 + b"{}]}"
    answer = sender(f"{site.server.url}/v1/traces", body, key=site.agent_key(), content_type=JSON)
    assert answer.status == 413


def test_more_spans_than_a_store_takes_at_once_are_refused(site: Any, sender: Post) -> None:
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 100_000 + b"{}]}]}]}"
    answer = sender(f"{site.server.url}/v1/traces", body, key=site.agent_key(), content_type=JSON)
    assert answer.status == 413


def away(store: MemoryStore, gate: threading.Event | None = None) -> MemoryStore:
    """A store that cannot append, after a while if there is a gate."""

    async def append(spans: object, *, token: object = None) -> None:
        if gate is not None:
            await asyncio.to_thread(gate.wait, 30)
        raise StoreUnavailable("the disk is full; make room")

    store.spans.append = append  # type: ignore[method-assign, assignment]
    return store


def small_body(key: str) -> bytes:
    found = Span(
        rollout_id="r",
        attempt_id="r.1",
        span_id="00000000000000aa",
        trace_id=TRACE_ID,
        name=key,
        operation="chat",
        source=SpanSource.OTLP,
        start_ns=1,
        end_ns=1,
    )
    return encode_traces([found])


def test_a_store_that_is_away_is_worth_another_try(sender: Post) -> None:
    with running_server(away(MemoryStore())) as server:
        answer = sender(f"{server.url}/v1/traces", small_body("x"), key=server.key, content_type=JSON)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert msgspec.json.decode(answer.body)["code"] == 14


def test_too_much_on_its_way_is_refused_for_now(sender: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_plugin_server.otlp._receiver._MOST_BYTES", 100)
    gate = threading.Event()
    statuses: list[int] = []
    with running_server(away(MemoryStore(), gate)) as server:

        def send() -> None:
            answer = sender(f"{server.url}/v1/traces", small_body("x"), key=server.key, content_type=JSON)
            statuses.append(answer.status)
            gate.set()  # whoever is refused lets the other go on

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [429, 503]


async def test_limits_of_the_store_reject_no_more_than_they_must() -> None:
    store = MemoryStore(limits=Limits(span_bytes=4000, attempt_spans=3))
    async with store:
        await store.rollouts.enqueue([RolloutRequest(task=1), RolloutRequest(task=2)])
        leases = await store.rollouts.lease("w", limit=2)
        site = type("Site", (), {"leases": leases})()
        large = span(site, 2, attributes={"x": "y" * 5000})
        many = [span(site, number, place=1) for number in range(1, 6)]
        answer = await send_in_process(
            app_over(store), encode_traces([span(site, 1), large, span(site, 3), *many])
        )
        count, message = rejections(answer, JSON)
        stored = (await store.spans.page(SpanQuery(attempt_ids=(leases[0].attempt.id,)))).items
        full = (await store.spans.page(SpanQuery(attempt_ids=(leases[1].attempt.id,)))).items
    assert [found.span_id[-1] for found in stored] == ["1", "3"]
    assert "bytes" in message
    assert count == 1 + 5 - sum(found.operation == "chat" for found in full)
    assert [found.operation for found in full].count("agl.truncated") == 1


KEY = "a key for tests only"


def app_over(store: MemoryStore) -> AsgiApp:
    return create_app(store, keys=KeyRing(KEY))


async def send_in_process(app: AsgiApp, *parts: bytes, encoding: bytes = b"", status: int = 200) -> bytes:
    """Sends a body in parts to an app without sockets."""
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"x-api-key", KEY.encode()),
        (b"content-type", JSON.encode()),
        (b"content-encoding", encoding),
    ]
    await app({"type": "http", "path": "/v1/traces", "method": "POST", "headers": headers}, receive, send)
    assert sent[0]["status"] == status
    return b"".join(message.get("body", b"") for message in sent[1:])


def split_everywhere(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((body[:place], body[place:]) for place in range(len(body) + 1))


@pytest.mark.parametrize("encoding", [b"", b"gzip", b"deflate"])
async def test_a_body_may_be_split_anywhere(encoding: bytes) -> None:
    compress = {b"": bytes, b"gzip": gzip.compress, b"deflate": zlib.compress}[encoding]
    async with MemoryStore() as store:
        await store.rollouts.enqueue([RolloutRequest(task=1)])
        (lease,) = await store.rollouts.lease("w")
        site = type("Site", (), {"leases": [lease]})()
        app, body = app_over(store), compress(encode_traces([span(site)]))
        for parts in split_everywhere(body):
            assert await send_in_process(app, *parts, encoding=encoding) == b"{}"
        for head, _ in list(split_everywhere(body))[1:-1]:
            await send_in_process(app, head, encoding=encoding, status=400)
        assert await store.spans.count() == 1
