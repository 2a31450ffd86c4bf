"""Whatever comes over the wire: a status from 400 on with a reason, never 500, and memory stays flat."""

from __future__ import annotations

import asyncio
import gzip
import math
import random
import zlib
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.apps import Message
from agentlightning.credentials import KeyRing
from agentlightning.errors import StoreUnavailable
from agentlightning.store import MemoryStore
from agentlightning.store.wire import ErrorBody, routes
from lightning_plugin_server import ServerApp, ServerConfig, create_app
from lightning_plugin_server._body import read_body
from lightning_plugin_server._codec import MAX_DEPTH, check_json, encoded
from lightning_plugin_server._refusal import Refusal
from lightning_plugin_server.testing import RunningServer, running_server

KEY = "a key for tests only"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FITTING: Mapping[str, st.SearchStrategy[object]] = {
    "requests": st.lists(
        st.fixed_dictionaries({"task": VALUES}, optional={"id": st.text(), "priority": st.integers(-9, 9)})
    ),
    "limit": st.integers(-3, 20_000),
    "rollout_ids": st.lists(st.text()),
    "query": st.fixed_dictionaries(
        {}, optional={"group": st.text(), "since_ns": st.integers(-(2**63), 2**63 - 1)}
    ),
    "cursor": st.text(alphabet="0123456789.:-"),
    "ttl_s": st.floats(),
    "token": st.integers(-(2**63), 2**64 - 1),
}
ENQUEUE = "/api/rollouts/enqueue"
JSON = "application/json"
MSGPACK = "application/msgpack"


async def post(
    http: aiohttp.ClientSession, key: str, path: str, body: bytes, *, kind: str = JSON, **headers: str
) -> tuple[int, str]:
    sent = {
        "x-api-key": key,
        "content-type": kind,
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    async with http.post(path, data=body, headers=sent) as response:
        return response.status, await response.text()


async def asked(app: ServerApp, path: str, body: bytes, *, accept: str = MSGPACK) -> tuple[int, bytes]:
    """Status and body of an answer, without a network."""
    sent: list[Message] = []
    names = {"x-api-key": KEY, "content-type": MSGPACK, "accept": accept}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(name.encode(), text.encode()) for name, text in names.items()],
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


def task(text: str) -> bytes:
    return b'{"requests": [{"task": %b}]}' % text.encode()


def reward(value: str) -> bytes:
    span = (
        '{"rollout_id": "r", "attempt_id": "r.1", "span_id": "0000000000000001", "trace_id": "t", "name": "reward",'
        ' "operation": "agl.reward", "source": "emit", "start_ns": 1, "end_ns": 1, "attributes":'
        ' {"gen_ai.evaluation.score.value": VALUE}}'
    )
    return b'{"spans": [%b]}' % span.replace("VALUE", value).encode()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (ENQUEUE, b"", 400),
        (ENQUEUE, b"{", 400),
        (ENQUEUE, b"null", 400),
        (ENQUEUE, b"[]", 400),
        (ENQUEUE, task("NaN"), 400),
        (ENQUEUE, task("Infinity"), 400),
        (ENQUEUE, task("1e999"), 400),
        (ENQUEUE, task("1180591620717411303424"), 400),
        (ENQUEUE, task('"\\ud800"'), 400),
        (ENQUEUE, task("[" * 10_000 + "]" * 10_000), 400),
        (ENQUEUE, task('{"a":' * 10_000 + "1" + "}" * 10_000), 400),
        (ENQUEUE, task("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)), 400),
        (ENQUEUE, task('"a\\u0000b"'), 400),
        (ENQUEUE, task('"\\\\u0000"'), 200),
        (ENQUEUE, task('"\xff"'), 200),
        (ENQUEUE, b'{"requests": [{"task": "\xff"}]}', 400),
        (ENQUEUE, b'{"requests": [{"task": 1, "priority": 9223372036854775808}]}', 400),
        (ENQUEUE, b'{"requests": [{"task": 1, "config": {"timeout_s": -1}}]}', 400),
        (ENQUEUE, b'{"requests": [{"task": 1, "id": "%b"}]}' % (b"x" * 1_000_000), 413),
        (ENQUEUE, b'{"requests": [{"task": 1, "id": ""}]}', 413),
        (ENQUEUE, b'{"request": []}', 400),
        ("/api/rollouts/get", b'{"rollout_id": "../../etc/passwd"}', 404),
        ("/api/rollouts/get", b'{"rollout_id": "health"}', 404),
        ("/api/rollouts/list", b'{"limit": -1}', 400),
        ("/api/rollouts/list", b'{"limit": 100000000}', 400),
        ("/api/rollouts/list", b'{"cursor": "../x"}', 400),
        ("/api/rollouts/lease", b'{"worker": "w", "ttl_s": 0}', 400),
        ("/api/rollouts/lease", b'{"worker": "w", "wait_s": -1}', 400),
        ("/api/rollouts/wait", b"{}", 400),
        ("/api/spans/append", reward("true"), 422),
        ("/api/spans/append", reward('"high"'), 422),
        ("/api/spans/append", reward("null"), 422),
        ("/api/spans/append", reward("NaN"), 400),
        ("/api/store/trim", b'{"retention": {}}', 400),
        ("/api/keys", b'{"scope": "king"}', 400),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused_with_a_reason(
    server: RunningServer, http: aiohttp.ClientSession, path: str, body: bytes, status: int
) -> None:
    found, text = await post(http, server.key, path, body)
    assert found == status, text
    if status != 200:
        fault = msgspec.json.decode(text)["error"]
        assert fault["message"]
        assert "Traceback" not in text
    assert (await post(http, server.key, ENQUEUE, task("1")))[0] == 200


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_number_that_is_none_is_refused_in_msgpack_too(
    server: RunningServer, http: aiohttp.ClientSession, value: float
) -> None:
    body = msgspec.msgpack.encode({"requests": [{"task": value}]})
    assert (await post(http, server.key, ENQUEUE, body, kind=MSGPACK))[0] == 400


async def test_msgpack_extensions_are_refused(server: RunningServer, http: aiohttp.ClientSession) -> None:
    body = msgspec.msgpack.encode({"requests": [{"task": msgspec.msgpack.Ext(5, b"code")}]})
    found, text = await post(http, server.key, ENQUEUE, body, kind=MSGPACK)
    assert (found, "extension" in text) == (400, True)


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application/x-pickle"])
async def test_other_content_types_are_refused(
    server: RunningServer, http: aiohttp.ClientSession, kind: str
) -> None:
    assert (await post(http, server.key, ENQUEUE, task("1"), kind=kind))[0] == 415


async def test_answers_come_as_asked_or_as_accepted(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    headers = {"x-api-key": server.key, "content-type": MSGPACK}
    body = msgspec.msgpack.encode({})
    async with http.post("/api/store/statistics", data=body, headers=headers) as response:
        assert response.content_type == MSGPACK
        assert msgspec.msgpack.decode(await response.read())["runs"] == 0
    async with http.post("/api/store/statistics", data=body, headers={**headers, "accept": JSON}) as response:
        assert (await response.json())["runs"] == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_bodies_are_taken(
    server: RunningServer, http: aiohttp.ClientSession, encoding: str
) -> None:
    packed = gzip.compress(task("1")) if encoding == "gzip" else zlib.compress(task("1"))
    assert (await post(http, server.key, ENQUEUE, packed, content_encoding=encoding))[0] == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", task("1"), 415),
        ("gzip, gzip", task("1"), 415),
        ("gzip", task("1"), 400),
        ("gzip", gzip.compress(task("1"))[:-4], 400),
        ("gzip", gzip.compress(task("1")) + b"more", 400),
    ],
)
async def test_a_body_that_is_not_what_its_encoding_says_is_refused(
    server: RunningServer, http: aiohttp.ClientSession, encoding: str, body: bytes, status: int
) -> None:
    assert (await post(http, server.key, ENQUEUE, body, content_encoding=encoding))[0] == status


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(size // 2**20)]
    return b"".join([*parts, packer.flush()])


def resident_bytes() -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
async def test_a_gzip_bomb_is_refused_while_it_is_read(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    packed = bomb(2**30)
    assert len(packed) < 2 * 2**20
    before = await asyncio.to_thread(resident_bytes)
    for _ in range(3):
        for path in (ENQUEUE, "/v1/traces"):
            found, text = await post(http, server.key, path, packed, content_encoding="gzip")
            assert (found, "67108864" in text) == (413, True)
    assert await asyncio.to_thread(resident_bytes) - before < 2**28


async def test_a_body_over_the_limit_is_refused() -> None:
    with running_server(MemoryStore(), config=ServerConfig(max_body_bytes=1000)) as server:
        async with aiohttp.ClientSession(server.url) as http:
            assert (await post(http, server.key, ENQUEUE, b"x" * 1001))[0] == 413

            async def pieces() -> object:
                for _ in range(100):
                    yield b"x" * 100

            headers = {"x-api-key": server.key, "content-type": JSON}
            async with http.post(ENQUEUE, data=pieces(), headers=headers) as response:
                assert response.status == 413


async def test_more_requests_than_the_server_takes_are_told_to_wait() -> None:
    with running_server(MemoryStore(), config=ServerConfig(max_requests=2)) as server:
        async with aiohttp.ClientSession(server.url) as http:
            lease = b'{"worker": "w", "wait_s": 10}'
            waiting = [
                asyncio.create_task(post(http, server.key, "/api/rollouts/lease", lease)) for _ in range(2)
            ]
            while True:
                headers = {"x-api-key": server.key}
                async with http.get("/metrics", headers=headers) as response:
                    if response.status == 429:
                        assert response.headers["retry-after"] == "1"
                        break
            for task_ in waiting:
                task_.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


TEXT = st.text(alphabet='[]{}\\\\u0"a\x00', max_size=12)


@given(st.recursive(st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
@settings(max_examples=200, deadline=None)
def test_sensible_json_passes_the_check_unless_it_has_a_nul(value: object) -> None:
    raw = msgspec.json.encode(value)
    if "\\x00" in repr(value).replace("\\\\", ""):
        with pytest.raises(ValueError, match="NUL"):
            check_json(raw)
    else:
        check_json(raw)


@given(st.integers(MAX_DEPTH + 1, MAX_DEPTH + 50), st.text(alphabet='[]{}\\\\"a', max_size=20))
@settings(max_examples=200, deadline=None)
def test_text_with_brackets_does_not_change_the_depth(depth: int, text: str) -> None:
    inner: object = text
    for _ in range(depth):
        inner = [inner]
    with pytest.raises(ValueError, match="deep"):
        check_json(msgspec.json.encode(inner))
    check_json(msgspec.json.encode([text] * 300))


@given(cut=st.integers(0, 30_000), pieces=st.integers(1, 7), limit=st.sampled_from([19_999, 20_000, 30_000]))
@settings(max_examples=50, deadline=None)
async def test_a_compressed_body_is_whole_wherever_it_is_split(cut: int, pieces: int, limit: int) -> None:
    plain = random.Random(1).randbytes(10_000) * 2
    packed = gzip.compress(plain)[:cut]
    size = -(-len(packed) // pieces) or 1
    parts = [packed[at : at + size] for at in range(0, len(packed), size)] or [b""]
    messages = iter(
        {"type": "http.request", "body": part, "more_body": place < len(parts) - 1}
        for place, part in enumerate(parts)
    )

    async def receive() -> Message:
        return next(messages)

    reading = read_body(receive, encoding="gzip", length="", limit=limit)
    if not packed:
        assert await reading == b""
    elif len(packed) < len(gzip.compress(plain)) or limit < len(plain):
        with pytest.raises(Refusal):
            await reading
    else:
        assert await reading == plain


async def test_an_unknown_argument_is_refused_with_the_nearest_one(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    found, text = await post(http, server.key, "/api/rollouts/lease", b'{"workers": "w"}')
    assert (found, "did you mean 'worker'?" in text) == (400, True)


@pytest.mark.parametrize("depth", [60, 150, *range(900, 1030, 3), 5000])
async def test_nesting_of_any_depth_is_answered(depth: int) -> None:
    store = MemoryStore()
    async with store:
        app = create_app(store, keys=KeyRing(KEY))
        deep = b"\x91" * depth + b"\x01"
        body = b"\x81" + msgspec.msgpack.encode("requests") + b"\x91\x82"
        body += (
            msgspec.msgpack.encode("id")
            + msgspec.msgpack.encode("deep")
            + msgspec.msgpack.encode("task")
            + deep
        )
        wanted = msgspec.msgpack.encode({"rollout_id": "deep"})
        assert (status := (await asked(app, ENQUEUE, body))[0]) in {200, 400, 422}
        for accept in (JSON, MSGPACK):
            found = (await asked(app, "/api/rollouts/get", wanted, accept=accept))[0]
            assert found in ({200, 422} if status == 200 else {404, 200, 422})


def test_an_answer_that_cannot_be_written_is_refused() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    for kind in (JSON, MSGPACK):
        with pytest.raises(Refusal, match=kind):
            encoded(deep, accept=kind, content_type=kind)


@given(st.data())
@settings(max_examples=300, deadline=None)
async def test_arguments_of_any_kind_are_answered(data: st.DataObject) -> None:
    """Every route is sent all of its arguments, some of them with values that fit and some with others."""
    route = data.draw(st.sampled_from(list(routes().values())))
    arguments = {
        field.name: data.draw(VALUES | FITTING.get(field.name, VALUES))
        for field in msgspec.structs.fields(route.request)
        if field.name not in {"wait_s", "timeout_s"}
    }
    if route.method == "wait":
        arguments["timeout_s"] = 0
    async with MemoryStore() as store:
        app = create_app(store, keys=KeyRing(KEY))
        status, answer = await asked(app, route.path, msgspec.msgpack.encode(arguments))
        assert status < 500, answer
        assert status == 200 or msgspec.json.decode(answer, type=ErrorBody).error.message


async def test_a_store_that_is_away_is_503_and_one_that_breaks_is_500_without_its_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    failures = iter([StoreUnavailable("the disk is full"), StoreUnavailable("away"), KeyError("innards")])

    async def fail(**arguments: object) -> object:
        raise next(failures)

    monkeypatch.setattr(store.runs, "list", fail)
    with running_server(store) as server:
        async with aiohttp.ClientSession(server.url, headers={"x-api-key": server.key}) as http:
            async with http.post("/api/runs/list", json={}) as response:
                assert (response.status, response.headers["retry-after"]) == (503, "1")
                assert "disk is full" in await response.text()
            async with http.get("/healthz") as response:
                assert (response.status, "away" in await response.text()) == (503, False)
            async with http.post("/api/runs/list", json={}) as response:
                assert (response.status, "innards" in await response.text()) == (500, False)
    assert "innards" in caplog.text
