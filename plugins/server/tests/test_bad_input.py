"""Whatever comes over the wire: a status from 400 on with a reason, never 500, and memory stays flat."""

from __future__ import annotations

import asyncio
import gzip
import math
import zlib
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.store import MemoryStore
from lightning_plugin_server import ServerConfig
from lightning_plugin_server._codec import MAX_DEPTH, check_depth
from lightning_plugin_server.testing import RunningServer, running_server

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


async def test_a_slow_body_is_given_up() -> None:
    with running_server(MemoryStore(), config=ServerConfig(body_timeout_s=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        head = f"POST {ENQUEUE} HTTP/1.1\r\nhost: x\r\nx-api-key: {server.key}\r\ncontent-length: 100\r\n\r\n"
        writer.write(head.encode() + b"{")
        await writer.drain()
        assert (await reader.readline()).split()[1] == b"408"
        writer.close()


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


@given(
    st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
@settings(max_examples=200, deadline=None)
def test_sensible_json_passes_the_check_of_depth(value: object) -> None:
    check_depth(msgspec.json.encode(value))


@given(st.integers(MAX_DEPTH + 1, MAX_DEPTH + 50), st.text(alphabet='[]{}\\\\"a', max_size=20))
@settings(max_examples=200, deadline=None)
def test_text_with_brackets_does_not_change_the_depth(depth: int, text: str) -> None:
    inner: object = text
    for _ in range(depth):
        inner = [inner]
    with pytest.raises(ValueError, match="deep"):
        check_depth(msgspec.json.encode(inner))
    check_depth(msgspec.json.encode([text] * 300))
