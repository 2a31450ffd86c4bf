"""Every endpoint refuses whoever has no key, a wrong one, or one of another scope."""

from __future__ import annotations

import logging
import re

import aiohttp
import msgspec
import pytest

from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.store import MemoryStore, open_store
from agentlightning.types import RolloutRequest, Span, SpanSource, reward_span
from lightning_plugin_server.testing import RunningServer, running_server

PUBLIC = {"/healthz", "/openapi.json"}
OTHERS = [scope for scope in Scope if scope is not Scope.ADMIN]


async def status(http: aiohttp.ClientSession, method: str, path: str, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = b"{}" if method == "POST" else None
    headers["content-type"] = "application/json"
    async with http.request(method, path, data=body, headers=headers) as response:
        return response.status


async def test_only_endpoints_without_data_are_public(server: RunningServer) -> None:
    assert {endpoint.path for endpoint in server.app.endpoints if endpoint.public} == PUBLIC


async def test_every_endpoint_refuses_no_key_and_unknown_keys(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    foreign = KeyRing("the key of another server").issue(Credential(scope=Scope.ADMIN))
    expired = server.keys.issue(Credential(scope=Scope.VIEWER, expires_at=1.0))
    wrong = [None, "", "agl-", "agl-AAAA", server.key[:-1], server.key + "x", foreign, expired, "\u00e9" * 40]
    for endpoint in server.app.endpoints:
        if endpoint.public:
            continue
        for key in wrong:
            assert await status(http, endpoint.method, endpoint.path, key) == 401, (endpoint.path, key)


async def test_every_endpoint_admits_its_scopes_and_no_other(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    checked = 0
    for endpoint in server.app.endpoints:
        for scope in OTHERS:
            if endpoint.public or endpoint.path == "/api/events":
                continue
            key = server.key_for(scope, rollout_id="r", attempt_id="r.1")
            found = await status(http, endpoint.method, endpoint.path, key)
            assert (found == 403) == (scope not in endpoint.scopes), (endpoint.path, scope, found)
            checked += 1
    assert checked > 150


async def test_the_document_lists_every_endpoint_with_its_scopes(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    listed = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert listed == {(endpoint.path, endpoint.method) for endpoint in server.app.endpoints}
    for path, methods in paths.items():
        for operation in methods.values():
            assert ("security" in operation) == (path not in PUBLIC)


@pytest.mark.parametrize(
    "path",
    ["/healthz/", "/healthz/../metrics", "//metrics", "/metrics/", "/METRICS", "/api/x/health", "/%6detrics"],
)
async def test_a_path_that_only_looks_like_one_is_refused(
    server: RunningServer, http: aiohttp.ClientSession, path: str
) -> None:
    import yarl

    async with http.get(yarl.URL(server.url + path, encoded=True)) as response:
        assert response.status in {401, 404}


async def test_another_method_is_told_which_are_allowed(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    async with http.get("/api/rollouts/lease") as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_x_api_key_is_as_good_as_bearer(server: RunningServer, http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics", headers={"x-api-key": server.key}) as response:
        assert response.status == 200
        assert "agl_rollouts{" in await response.text()


def span_of(rollout_id: str, attempt_id: str, **changes: object) -> Span:
    found = Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        span_id="0" * 15 + "1",
        trace_id="0" * 31 + "1",
        name="s",
        operation="chat",
        source=SpanSource.GATEWAY,
        start_ns=1,
        end_ns=2,
    )
    return msgspec.structs.replace(found, **changes)


async def append(http: aiohttp.ClientSession, key: str, span: Span) -> int:
    body = msgspec.json.encode({"spans": [span]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with http.post("/api/spans/append", data=body, headers=headers) as response:
        return response.status


async def test_an_agent_appends_to_its_own_attempt_and_is_not_believed_more_than_an_agent() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with aiohttp.ClientSession(server.url) as http, store:
            await store.rollouts.enqueue([RolloutRequest(task=n, id=f"r{n}") for n in range(2)])
            await store.rollouts.lease("w", limit=2)
            key = server.key_for(Scope.AGENT, rollout_id="r0", attempt_id="r0.1")
            claim = reward_span(
                rollout_id="r0", attempt_id="r0.1", span_id="2" * 16, trace_id="1" * 32, time_ns=1, value=1.0
            )
            graded = msgspec.structs.replace(
                claim, attributes={**claim.attributes, "agl.reward.source": "grader"}
            )
            assert await append(http, key, span_of("r0", "r0.1")) == 200
            assert await append(http, key, graded) == 200
            assert await append(http, key, span_of("r1", "r1.1")) == 403
            assert await append(http, key, span_of("r0", "r1.1")) == 403
            from agentlightning.store import SpanQuery

            spans = (await store.spans.page(SpanQuery())).items
            assert {span.attempt_id for span in spans} == {"r0.1"}
            assert {span.source for span in spans} <= {SpanSource.OTLP, SpanSource.EMIT}
            assert [reward.source.value for reward in await store.spans.rewards(["r0"])] == ["agent"]


async def test_a_grader_appends_rewards_only() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with aiohttp.ClientSession(server.url) as http, store:
            await store.rollouts.enqueue([RolloutRequest(task=1, id="r")])
            await store.rollouts.lease("w")
            key = server.key_for(Scope.REWARD)
            reward = reward_span(
                rollout_id="r", attempt_id="r.1", span_id="2" * 16, trace_id="1" * 32, time_ns=1, value=1.0
            )
            assert await append(http, key, reward) == 200
            assert await append(http, key, span_of("r", "r.1")) == 403
            assert [reward.source.value for reward in await store.spans.rewards(["r"])] == ["grader"]


async def make_key(http: aiohttp.ClientSession, key: str, **request: object) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {key}"}
    async with http.post("/api/keys", json=request, headers=headers) as response:
        body = await response.json()
        return response.status, body.get("key", "")


async def test_keys_are_made_for_what_the_caller_holds() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with aiohttp.ClientSession(server.url) as http, store:
            await store.rollouts.enqueue([RolloutRequest(task=1, id="r")])
            await store.rollouts.lease("w")
            runner = server.key_for(Scope.RUNNER)
            agent = {"scope": "agent", "rollout_id": "r", "attempt_id": "r.1"}
            made, key = await make_key(http, runner, **agent, token=1)
            assert made == 200
            assert server.keys.verify(key).attempt_id == "r.1"
            assert (await make_key(http, runner, **agent, token=2))[0] == 403
            assert (await make_key(http, runner, **agent))[0] == 403
            assert (await make_key(http, runner, scope="viewer"))[0] == 403
            assert (await make_key(http, server.key, scope="viewer"))[0] == 200
            assert (await make_key(http, server.key, scope="admin"))[0] == 403
            assert (await make_key(http, server.key, scope="agent"))[0] == 400
            assert (await make_key(http, server.key, **{**agent, "attempt_id": "r.9"}))[0] == 404
            assert (await make_key(http, server.key, scope="viewer", ttl_s=-1))[0] == 400


async def test_a_host_that_is_not_this_machine_is_refused() -> None:
    from lightning_plugin_server import ServerConfig

    config = ServerConfig(hosts=("127.0.0.1", "localhost"))
    with running_server(MemoryStore(), config=config) as server:
        async with aiohttp.ClientSession(server.url) as http:
            for host, expected in (("evil.example", 421), ("127.0.0.1:1", 200), ("localhost", 200)):
                async with http.get("/healthz", headers={"host": host}) as response:
                    assert response.status == expected


async def test_no_key_is_ever_repeated(
    server: RunningServer, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "agl-canary0123456789canary0123456789"
    said = []
    for headers in (
        {"authorization": f"Bearer {canary}"},
        {"authorization": canary},
        {"x-api-key": canary},
        {"authorization": f"Bearer {server.key}", "x-other": canary},
    ):
        for path in ("/metrics", "/api/rollouts/get", "/nowhere", "/v1/traces"):
            async with http.post(path, headers=headers, data=b"{") as response:
                said += [await response.text(), str(response.headers)]
    said.append(caplog.text)
    assert not any(canary in text or server.key in text for text in said)


async def test_a_key_in_the_wrong_place_is_not_repeated_either(
    server: RunningServer, http: aiohttp.ClientSession
) -> None:
    headers = {"x-api-key": server.key_for(Scope.VIEWER)}
    canary = headers["x-api-key"]
    for path in (
        f"/{canary}",
        f"/api/{canary}?key={canary}",
        f"/api/events?after={canary}",
        f"/api/events?{canary}=1",
    ):
        async with http.get(path, headers={**headers, "last-event-id": canary}) as response:
            assert response.status in {400, 404}
            assert canary not in await response.text()
    body = msgspec.json.encode({"rollout_id": canary})
    headers["content-type"] = "application/json"
    async with http.post("/api/rollouts/get", data=body, headers=headers) as response:
        assert (response.status, canary in await response.text()) == (404, False)


async def test_a_grader_of_one_attempt_leaves_others_alone() -> None:
    store = MemoryStore()
    with running_server(store) as server:
        async with aiohttp.ClientSession(server.url) as http, store:
            await store.rollouts.enqueue([RolloutRequest(task=n, id=f"r{n}") for n in range(2)])
            await store.rollouts.lease("w", limit=2)
            key = server.key_for(Scope.REWARD, rollout_id="r0", attempt_id="r0.1")
            for name, status in (("r0", 200), ("r1", 403)):
                reward = reward_span(
                    rollout_id=name,
                    attempt_id=f"{name}.1",
                    span_id="2" * 16,
                    trace_id="1" * 32,
                    time_ns=1,
                    value=1.0,
                )
                assert await append(http, key, reward) == status


async def test_metrics_are_what_prometheus_reads(server: RunningServer, http: aiohttp.ClientSession) -> None:
    headers = {"x-api-key": server.key_for(Scope.VIEWER)}
    async with http.post("/api/nowhere", headers=headers) as response:
        assert response.status == 404
    async with http.get("/metrics", headers=headers) as response:
        text = await response.text()
    sample = re.compile(r'(agl_[a-z_]+)(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(sample.fullmatch(line) for line in lines)
    typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    names = {line.partition("{")[0].partition(" ")[0] for line in lines}
    assert {
        re.sub("_(bucket|sum|count)$", "", name) if "seconds_" in name else name for name in names
    } == typed
    assert 'agl_http_requests_total{path="other",status="404"} 1' in lines


async def test_a_store_url_never_takes_a_key() -> None:
    from agentlightning.errors import ConfigError
    from lightning_plugin_server import HttpStore

    with pytest.raises(ConfigError, match="AGL_KEY") as caught:
        open_store("http://me:secret0123456789@host", schemes={"http": HttpStore})
    assert "secret" not in str(caught.value)
