"""`/metrics` of a server that mounts the gateway: how every model and every replica fares."""

from __future__ import annotations

import re

import aiohttp
import pytest

from agentlightning.apps import AppContext
from agentlightning.credentials import KeyRing, Scope
from agentlightning.store import MemoryStore
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from agentlightning.types import Json
from lightning_plugin_gateway import MountedGateway, create_app
from lightning_plugin_gateway._live import LiveStatus
from lightning_plugin_gateway._metrics import metrics_text
from lightning_plugin_gateway.upstreams import BreakerState, ModelStatus, ServerStatus

SECRET = "a key for tests only"
DEAD = "http://127.0.0.1:1/v1"
SAMPLE = re.compile(r'(agl_[a-z_]+)(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? \d+(\.\d+)?')


def mounted(store: MemoryStore, upstream: dict[str, Json], **settings: Json) -> MountedGateway:
    options: dict[str, Json] = {"upstreams": {"m": upstream}, "observe": True, "settings": settings}
    return create_app(AppContext(store=store, keys=KeyRing(SECRET), options=options))


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_every_replica_is_shown_with_its_breaker_and_its_failures() -> None:
    mounts = pytest.importorskip("lightning_plugin_server._mounts", reason="`/metrics` is the server's")
    testing = pytest.importorskip("lightning_plugin_server.testing")
    store = MemoryStore()
    http: dict[str, Json] = {"trip_after": 1, "cooldown_s": 600.0, "longest_cooldown_s": 600.0}
    with ScriptedLLM(lambda _: ScriptedAnswer(text="hey")) as llm:
        upstream: dict[str, Json] = {"base_url": DEAD, "replicas": [llm.base_url], "wires": ["chat"]}
        mount = mounts.Mount(prefix="", app=mounted(store, upstream, http=http), public=True)
        with testing.running_server(store, key=SECRET, mounts=[mount]) as server:
            headers = {"x-api-key": SECRET}
            async with aiohttp.ClientSession(server.url, headers=headers) as session:
                calls = 0
                found: dict[str, float] = {}
                opened = f'agl_gateway_server_breaker{{model="m",server="{DEAD}",state="open"}}'
                while not found.get(opened):  # where a call goes first depends on its words
                    calls += 1
                    body = {"model": "m", "messages": [{"role": "user", "content": f"hello {calls}"}]}
                    async with session.post("/v1/chat/completions", json=body) as answer:
                        assert answer.status == 200
                    async with session.get("/metrics") as answer:
                        text = await answer.text()
                    found = samples(text)
            viewer = {"x-api-key": server.key_for(Scope.VIEWER)}
            async with aiohttp.ClientSession(headers=viewer) as session:
                answer = await session.get(f"{server.url}/metrics")
                assert (answer.status, "agl_gateway_calls_total" in await answer.text()) == (200, True)
    assert all(
        SAMPLE.fullmatch(line) for line in text.splitlines() if "agl_gateway" in line and line[0] != "#"
    )
    dead, alive = f'{{model="m",server="{DEAD}"', f'{{model="m",server="{llm.base_url}"'
    assert {
        name: found[f"agl_gateway_{name}"] for name in ('calls_total{model="m"}', 'retries_total{model="m"}')
    } == {
        'calls_total{model="m"}': calls,
        'retries_total{model="m"}': 1,
    }
    assert found['agl_gateway_failures_total{model="m"}'] == found['agl_gateway_in_flight{model="m"}'] == 0
    assert found[f"agl_gateway_server_failures_total{dead}}}"] == 1
    assert found[f"agl_gateway_server_tries_total{alive}}}"] == calls
    assert found[f'agl_gateway_server_breaker{dead},state="closed"}}'] == 0
    assert found[f'agl_gateway_server_breaker{alive},state="closed"}}'] == 1
    assert (found["agl_gateway_live_recorded_total"], found["agl_gateway_live_dropped_total"]) == (calls, 0)
    assert found["agl_attempts"] == calls


def test_names_cannot_break_out_of_their_labels() -> None:
    server = ServerStatus(url='a"\\b\nc', state=BreakerState.HALF_OPEN, in_flight=1, calls=2, failures=3)
    text = metrics_text(
        {"m": ModelStatus(calls=1, failures=0, servers=(server,))},
        live=LiveStatus(recorded=4, waiting=5, dropped=6),
    )
    assert 'agl_gateway_server_in_flight{model="m",server="a\\"\\\\b\\nc"} 1\n' in text
    assert 'server="a\\"\\\\b\\nc",state="half_open"} 1\n' in text
    assert "agl_gateway_live_waiting 5\n" in text


def test_a_metric_is_told_once_with_its_type() -> None:
    text = metrics_text({}, live=LiveStatus(recorded=0, waiting=0, dropped=0))
    typed = [line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len({name for name, _ in typed}) == len(typed)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in typed)
