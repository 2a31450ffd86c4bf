"""`agl serve` and `agl token` as a person and a process manager meet them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from agentlightning.credentials import KeyRing, Scope
from agentlightning.types import RolloutRequest
from lightning_plugin_server import HttpStore

AGL = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())")


async def start(*arguments: str, env: Mapping[str, str] = {}) -> Process:
    environment = {**os.environ, **env}
    return await asyncio.create_subprocess_exec(*AGL, *arguments, stdout=PIPE, stderr=PIPE, env=environment)


async def output(process: Process) -> tuple[int, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def serving(*arguments: str, env: Mapping[str, str] = {}) -> AsyncIterator[tuple[Process, str, str]]:
    """A server process, its URL, and the key that it showed."""
    process = await start("serve", "--port", "0", *arguments, env=env)
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    found = re.search(r"at (http\S+)", first)
    assert found, first + (await process.communicate())[1].decode()
    shown = ""
    if not env.get("AGL_KEY") and "--unsafe-no-auth" not in arguments:
        shown = (await process.stdout.readline()).decode()
    try:
        yield process, found[1], shown.rpartition("AGL_KEY=")[2].strip()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def key_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agentlightning" / "server.key"


async def test_a_key_is_made_shown_once_and_kept_for_its_owner_only(tmp_path: Path) -> None:
    async with serving() as (process, url, key):
        assert len(key) >= 40
        kept = key_file(tmp_path)
        assert (kept.read_text().strip(), kept.stat().st_mode & 0o777) == (key, 0o600)
        async with (
            aiohttp.ClientSession(url, headers={"x-api-key": key}) as http,
            http.get("/metrics") as response,
        ):
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert (await output(process))[0] == 0
    again = await start("serve", "--port", "0")
    assert again.stdout is not None
    await again.stdout.readline()
    again.send_signal(signal.SIGTERM)
    _, out, err = await output(again)
    assert key not in out + err


async def test_what_was_enqueued_is_there_after_a_restart_and_a_local_client_needs_no_key() -> None:
    async with serving("--store", "sqlite:///served.db") as (process, url, _):
        async with HttpStore(url) as store:
            await store.rollouts.enqueue([RolloutRequest(task=1, id="kept")])
        process.send_signal(signal.SIGINT)
        assert (await output(process))[0] == 130
    port = url.rpartition(":")[2]
    again = await start("serve", "--port", port, "--store", "sqlite:///served.db")
    async with HttpStore(url) as store:
        assert (await store.rollouts.get("kept")).task == 1
    again.send_signal(signal.SIGTERM)
    assert (await output(again))[0] == 0


async def test_a_taken_port_is_one_clear_line() -> None:
    async with serving() as (_, url, _):
        code, _, err = await output(await start("serve", "--port", url.rpartition(":")[2]))
        assert code == 1
        assert len(err.strip().splitlines()) == 1
        assert "port is taken" in err
        assert "--port" in err


async def test_other_machines_need_a_key_that_was_chosen() -> None:
    code, _, err = await output(await start("serve", "--host", "0.0.0.0", "--port", "0"))
    assert (code, "AGL_KEY" in err, "--unsafe-no-auth" in err) == (2, True, True)
    short = await output(await start("serve", "--port", "0", env={"AGL_KEY": "short"}))
    assert (short[0], "16" in short[2]) == (2, True)


async def test_everybody_is_admitted_only_when_that_is_said() -> None:
    async with serving("--unsafe-no-auth") as (process, url, _), aiohttp.ClientSession(url) as http:
        async with http.get("/metrics") as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert "everybody" in (await output(process))[2]


async def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123")
    path.chmod(0o644)
    code, _, err = await output(await start("serve", "--port", "0", "--key-file", str(path)))
    assert (code, "chmod 600" in err) == (2, True)


async def test_a_token_is_made_without_the_server_and_is_of_its_scope_only() -> None:
    secret = "a secret of sixteen or more"
    made = await output(await start("token", "--scope", "viewer", "--ttl", "1h", env={"AGL_KEY": secret}))
    key = made[1].strip()
    assert KeyRing(secret).verify(key).scope is Scope.VIEWER
    async with serving(env={"AGL_KEY": secret}) as (_, url, _), aiohttp.ClientSession(url) as http:
        for path, status in (("/api/runs/list", 200), ("/api/runs/create", 403)):
            async with http.post(path, json={}, headers={"x-api-key": key}) as response:
                assert response.status == status
    bad = await output(await start("token", "--scope", "viewer", "--ttl", "soon", env={"AGL_KEY": secret}))
    assert (bad[0], "24h" in bad[2]) == (2, True)
    without = await output(await start("token", "--scope", "viewer"))
    assert (without[0], "AGL_KEY" in without[2]) == (2, True)
