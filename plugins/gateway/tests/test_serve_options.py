"""What `agl serve` is told of models and of the gateway, from the command line to the upstream."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agentlightning.apps import AppContext
from agentlightning.credentials import KeyRing
from agentlightning.errors import ConfigError
from agentlightning.store import MemoryStore
from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from lightning_plugin_gateway import create_app

pytest.importorskip("lightning_plugin_server", reason="`agl serve` is the server's")

AGL = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())")
SECRET = "a secret of the tests"
HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[str]:
    """URL of a server in a process of its own."""
    environment = {**os.environ, "AGL_KEY": SECRET}
    process = await asyncio.create_subprocess_exec(
        *AGL,
        "serve",
        "--port",
        "0",
        "--store",
        "memory://",
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    found = re.search(r"at (http\S+)", line)
    assert found, (await process.communicate())[1].decode()
    try:
        yield found[1]
    finally:
        process.kill()
        await process.communicate()


async def post(url: str, body: dict[str, object]) -> tuple[int, str]:
    headers = {"x-api-key": SECRET}
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as response:
        return response.status, await response.text()


async def test_models_of_a_file_are_served_with_their_keys_and_the_gateways_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", "sk-canary")
    with ScriptedLLM(lambda _: ScriptedAnswer(text="hey")) as llm:
        file = tmp_path / "mine.toml"
        file.write_text(
            f"[gateway.upstreams.small]\nbase_url = {llm.base_url!r}\napi_key_env = 'CANARY_KEY'\nmodel = 'known'\n"
        )
        options = ("--config", str(file), "--gateway", "--observe", "--gateway-set", "max_body_bytes=200")
        flag = f"other={llm.base_url},wires=chat,token_ids=false,api_key_env=CANARY_KEY"
        async with serving(*options, "--upstream", flag) as address:
            for model in ("small", "other"):
                body = {"model": model, "messages": HELLO}
                assert (await post(f"{address}/v1/chat/completions", body))[0] == 200
            long = {"model": "small", "messages": [{"role": "user", "content": "x" * 200}]}
            status, text = await post(f"{address}/v1/chat/completions", long)
            async with aiohttp.ClientSession(headers={"x-api-key": SECRET}) as http:
                shown = await (await http.get(f"{address}/metrics")).text()
    assert (status, "max_body_bytes" in text) == (413, True)
    assert [request.json["model"] for request in llm.requests] == ["known", "other"]
    assert [bool(request.json.get("return_token_ids")) for request in llm.requests] == [True, False]
    assert [request.headers["authorization"] for request in llm.requests] == ["Bearer sk-canary"] * 2
    assert 'agl_gateway_calls_total{model="small"} 1\n' in shown
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("max_call=5", "did you mean 'max_calls'"),
        ("http.trys=2", "did you mean 'http.tries'"),
        ("http.tries=0", "at least 1"),
        ("sampling.val.temprature=0", "did you mean 'sampling.val.temperature'"),
        ("max_calls=many", "Expected `int`"),
        ("port=1", "--port"),
    ],
)
def test_a_setting_of_the_gateway_that_cannot_be_used_is_told(option: str, reason: str) -> None:
    from lightning_plugin_server._gateway import gateway_options

    found = gateway_options(["m=http://127.0.0.1:1/v1"], settings=[option], observe=False, unsafe=False)
    assert found is not None
    with pytest.raises(ConfigError, match=reason):
        create_app(AppContext(store=MemoryStore(), keys=KeyRing(SECRET), options=found))
