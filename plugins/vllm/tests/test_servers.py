"""Servers: started, joined, watched, and ended with all that they have started."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import ConfigError, EngineError
from lightning_plugin_vllm._engine import choose
from lightning_plugin_vllm._process import free_port

Gone = Callable[..., bool]
PidsIn = Callable[[Path], list[int]]
SERVING = {"serve_only": True, "model": "some/model"}


async def test_a_server_is_started_with_what_training_needs(lab: Any) -> None:
    backend = await lab.start(**SERVING, context=128, arguments=["--enforce-eager"])
    arguments = (await lab.state(backend))["arguments"]
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--model"] == "some/model"
    assert pairs["--served-model-name"] == "policy"
    assert pairs["--host"] == "127.0.0.1"
    assert pairs["--dtype"] == "float32"
    assert pairs["--max-model-len"] == "128"
    assert pairs["--generation-config"] == "vllm"
    assert pairs["--logprobs-mode"] == "processed_logprobs"
    assert "--enforce-eager" in arguments
    assert "--enable-lora" not in arguments
    assert backend.learner is None
    assert backend.engine.endpoints == tuple(f"{url}/v1" for url in lab.urls(backend))


async def test_a_server_gets_no_credentials_of_others(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-openai")
    monkeypatch.setenv("AGL_KEY", "canary-of-the-store")
    monkeypatch.setenv("VLLM_API_KEY", "would lock the engine out")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    backend = await lab.start(**SERVING, environment={"MINE": "1"})
    environment = (await lab.state(backend))["environment"]
    assert environment["MINE"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert not {"OPENAI_API_KEY", "AGL_KEY", "VLLM_API_KEY"} & environment.keys()


async def test_replicas_are_servers_of_their_own(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, replicas=3)
    assert len(set(backend.engine.endpoints)) == 3
    holding = [asyncio.create_task(backend.engine.chat(ask("hold"))) for _ in range(8)]

    async def all_run() -> bool:
        return sum([(await lab.state(backend, index))["running"] for index in range(3)]) == 8

    await lab.until(all_run)
    running = [(await lab.state(backend, index))["running"] for index in range(3)]
    assert max(running) <= 4  # 1.25 times its share
    assert min(running) >= 1
    for index in range(3):
        await lab.post(backend, "/_release", index)
    assert len(await asyncio.gather(*holding)) == 8


async def test_calls_with_one_beginning_go_to_one_server(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, replicas=3)
    replicas = backend.engine.replicas
    chosen = {content: choose(replicas, ask(content)) for content in map(str, range(30))}
    assert set(map(id, chosen.values())) == set(map(id, replicas))
    for content, replica in chosen.items():
        assert choose(replicas, ask(content)) is replica
        left = [one for one in replicas if one is not replicas[0]]
        if replica in left:  # a server that goes takes along its own conversations only
            assert choose(left, ask(content)) is replica


async def test_a_server_that_dies_at_the_start_is_shown_with_the_end_of_its_log(lab: Any) -> None:
    backend = lab.backend(fake={"dies": True}, **SERVING, environment={"HF_TOKEN": "canary-of-the-hub"})
    with pytest.raises(EngineError, match=r"ended with status 1(.|\n)*no such architecture") as caught:
        await backend.engine.start()
    message = str(caught.value).replace("\n", " ")
    assert "vllm-0.log" in message
    assert "starting with some/model; ***" in message
    assert "canary-of-the-hub" not in message


async def test_a_server_that_is_never_ready_is_given_up_and_ended(
    lab: Any, tmp_path: Path, gone: Gone, pids_in: PidsIn
) -> None:
    child = tmp_path / "child"
    backend = lab.backend(fake={"silent": True, "child": str(child)}, **SERVING, start_timeout_s=3.0)
    with pytest.raises(EngineError, match=r"not ready after start_timeout_s=3\.0(.|\n)*fake: starting"):
        await backend.engine.start()
    assert gone(*pids_in(child))


async def test_one_failing_replica_ends_the_others(lab: Any) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        backend = lab.backend(fake={"silent": True}, **SERVING, replicas=2, port=port)
        with pytest.raises(EngineError, match=f"port {port + 1}: it is in use; choose another port"):
            await backend.engine.start()
    with pytest.raises(EngineError, match="not running"):
        _ = backend.engine.replicas


async def test_a_free_port_that_is_taken_meanwhile_is_replaced(lab: Any) -> None:
    backend = lab.backend(**SERVING)
    replica = backend.engine._replicas[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", replica._port))
        taken.listen()
        before = replica._port
        await backend.engine.start()
        assert backend.engine.endpoints != (f"http://127.0.0.1:{before}/v1",)
        assert await replica.client.healthy()


async def test_a_server_that_dies_later_is_shown_with_the_end_of_its_log(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING)
    await lab.post(backend, "/_die")
    replica = backend.engine.replicas[0]

    async def ended() -> bool:
        return replica._process.returncode is not None

    await lab.until(ended)
    with pytest.raises(EngineError, match=r"has ended with status 9(.|\n)*die of a bad kernel"):
        await backend.engine.chat(ask())
    with pytest.raises(EngineError, match=r"has ended with status 9"):
        _ = [chunk async for chunk in backend.engine.stream(ask())]


async def test_a_dead_replica_is_passed_over(lab: Any, ask: Any) -> None:
    backend = await lab.start(**SERVING, replicas=2)
    await lab.post(backend, "/_die", 0)
    for number in range(8):
        assert (await backend.engine.chat(ask(str(number))))["policy_version"] == 0
        assert [chunk async for chunk in backend.engine.stream(ask(str(number)))][-1]["policy_version"] == 0


async def test_stopping_ends_a_stubborn_server_and_its_children(
    lab: Any, tmp_path: Path, gone: Gone, pids_in: PidsIn
) -> None:
    child = tmp_path / "child"
    backend = await lab.start(fake={"child": str(child), "stubborn": True}, **SERVING, stop_timeout_s=0.3)
    pids = pids_in(child)
    assert not gone(*pids, within_s=0.0)
    await backend.engine.stop()
    assert gone(*pids)
    with pytest.raises(EngineError, match="not running"):
        await backend.engine.chat({"messages": []})


async def test_running_servers_are_joined_and_left_running(lab: Any, ask: Any) -> None:
    own = await lab.start(**SERVING)
    joined = await lab.start(serve_only=True, servers=own.engine.endpoints)
    assert (await joined.engine.chat(ask()))["choices"][0]["message"]["content"] == "policy|model"
    await joined.engine.stop()
    assert await own.engine.replicas[0].client.healthy()


async def test_a_joined_server_that_is_not_there_is_named(lab: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    backend = lab.backend(serve_only=True, servers=[url])
    with pytest.raises(EngineError, match=f"no vLLM answers at {url}"):
        await backend.engine.start()


async def test_a_joined_server_of_another_model_is_refused(lab: Any) -> None:
    own = await lab.start(**SERVING)
    backend = lab.backend(serve_only=True, servers=own.engine.endpoints, name="other")
    with pytest.raises(ConfigError, match=r"does not serve 'other' but \['policy'\]; set name"):
        await backend.engine.start()


async def test_a_joined_server_may_have_a_key(lab: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = await lab.start(**SERVING)
    port = lab.urls(own)[0].rpartition(":")[2]
    await own.engine.stop()
    locked = lab.backend(fake={"key": "canary-key"}, **SERVING, port=int(port))
    with pytest.raises(EngineError, match=r"401.*set api_key_env"):
        await (
            locked.engine.start()
        )  # the engine starts no locked servers: this one was given a lock from outside
    process = locked.engine._replicas[0]._prepare("some/model", "policy")
    process.start()
    try:
        url = f"http://127.0.0.1:{port}/v1"
        await lab.until(locked.engine._replicas[0].client.healthy)
        monkeypatch.setenv("MY_KEY", "canary-key")
        joined = await lab.start(serve_only=True, servers=[url], api_key_env="MY_KEY")
        assert (await joined.engine.chat(ask()))["policy_version"] == 0
        assert joined.engine.endpoints == ()  # others do not know the key
    finally:
        await process.stop()


async def test_pause_sleep_and_their_ends_reach_every_server(lab: Any) -> None:
    backend = await lab.start(**SERVING, replicas=2)
    await backend.engine.pause("abort")
    await backend.engine.resume()
    await backend.engine.sleep(1)
    await backend.engine.wake_up()
    assert lab.calls() == [path for path in ("/pause", "/resume", "/sleep", "/wake_up") for _ in range(2)]


async def test_a_server_without_the_development_endpoints_says_what_to_do(lab: Any) -> None:
    backend = await lab.start(fake={"dev": False}, **SERVING)
    with pytest.raises(EngineError, match=r"refused sleep at level 1 with 404.*VLLM_SERVER_DEV_MODE=1"):
        await backend.engine.sleep()
