"""Agent Lightning 0.3's proxy, as its trainer starts it: `opponent_al03_gateway.py UPSTREAM_PORT`. A `Worker`.

The store is in this process and served from it, the proxy is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from typing import Any

from agentlightning.utils.server_launcher import PythonServerLauncherArgs
from answering import answer, open_channel
from workload import task

from agentlightning import InMemoryLightningStore, LightningStoreServer, LLMProxy

RECORDED_S = 30.0
"""How long to wait for spans, which come in batches."""


async def _open(
    store: InMemoryLightningStore, port: int, attempts: int
) -> tuple[dict[str, object], list[Any]]:
    begun = [await store.start_rollout(task(index)) for index in range(attempts)]
    paths = [
        f"/rollout/{one.rollout_id}/attempt/{one.attempt.attempt_id}/v1/chat/completions" for one in begun
    ]
    return {"port": port, "targets": [(path, "") for path in paths]}, begun


async def _close(store: InMemoryLightningStore, begun: list[Any], tokens: int, count: int) -> dict[str, int]:
    """How many calls were recorded, and how many of them with token ids."""
    loop = asyncio.get_running_loop()
    until = loop.time() + RECORDED_S
    while True:
        raw = [
            span
            for one in begun
            for span in await store.query_spans(one.rollout_id, limit=-1)
            if span.name == "raw_gen_ai_request"
        ]
        if len(raw) >= count or loop.time() > until:
            complete = sum(any("token_ids" in name for name in span.attributes) for span in raw)
            return {"recorded": len(raw), "complete": complete}
        await asyncio.sleep(0.2)


async def _serve(upstream: int) -> None:
    questions, answers = open_channel()
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, host="127.0.0.1", port=ports[0], launch_mode="thread")
    await server.start()
    model = {
        "model": "hosted_vllm/stub-model", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none",
    }  # fmt: skip
    proxy = LLMProxy(
        store=server,
        launcher_args=PythonServerLauncherArgs(
            port=ports[1],
            host="127.0.0.1",
            launch_mode="mp",
            healthcheck_url="/health",
            startup_timeout=90.0,
        ),
        model_list=[{"model_name": "stub-model", "litellm_params": model}],
    )
    await proxy.start()
    answer(answers, "ready")
    loop = asyncio.get_running_loop()
    begun: list[Any] = []
    try:
        while line := await loop.run_in_executor(None, questions.readline):
            question = json.loads(line)
            if question.pop("cell") == "open":
                told, begun = await _open(store, ports[1], **question)
                answer(answers, told)
            else:
                answer(answers, await _close(store, begun, **question))
    finally:
        with contextlib.suppress(Exception):
            await proxy.stop()
            await server.stop()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(_serve(int(sys.argv[1])))
