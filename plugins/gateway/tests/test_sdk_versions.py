"""The other major version of the OpenAI SDK, in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]
TEXT = "  two\n\ttabs é "
CLIENT = """
import asyncio, openai
assert openai.__version__.startswith("2."), openai.__version__
ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
said = []
with openai.OpenAI(max_retries=0) as sdk:
    said.append(sdk.chat.completions.create(**ask).choices[0].message.content)
    parts = sdk.chat.completions.create(**ask, stream=True)
    said.append("".join(part.choices[0].delta.content or "" for part in parts))
    said.append(sdk.completions.create(model="m", prompt="hello").choices[0].text)
    said.append(sdk.responses.create(model="m", input="hello").output_text)

async def main():
    async with openai.AsyncOpenAI(max_retries=0) as sdk:
        async with sdk.responses.stream(model="m", input="hello") as stream:
            said.append((await stream.get_final_response()).output_text)

asyncio.run(main())
print(said)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="environments are made by uv")
async def test_version_2_of_the_openai_sdk_is_served_on_every_wire(serve: Serve, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"

    def run(*command: str, **env: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    await asyncio.to_thread(run, "uv", "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env"))
    await asyncio.to_thread(run, "uv", "pip", "install", "--quiet", "--python", str(python), "openai>=2,<3")
    async with serve([ScriptedAnswer(text=TEXT)] * 5) as bench:
        env = {"OPENAI_BASE_URL": f"{bench.gateway.base_url}/v1", "OPENAI_API_KEY": bench.key()}
        said = await asyncio.to_thread(run, str(python), "-c", CLIENT, **env)
        spans = await bench.spans()
    assert said.strip() == repr([TEXT] * 5)
    assert [span.tokens[0].incomplete for span in spans] == [""] * 5
