"""Our sampler behind our gateway, which records durably: `contender_sampler.py MODEL`. Runs as a `Worker`.

The model is built, and saved to the directory MODEL for the others.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from answering import Stopwatch, serve
from chats import write_corpus
from contender_gateway import Contender

from agentlightning.gateway import GatewayConfig
from agentlightning.store import open_store
from lightning_plugin_gateway import create_gateway
from lightning_plugin_torch import create_backend

LAYERS, WIDTH, HEADS, VOCABULARY, CONTEXT = 4, 256, 4, 1024, 512


async def _enter(folder: Path, model: Path) -> tuple[AsyncExitStack, Contender]:
    resources = AsyncExitStack()
    corpus = folder / "corpus.jsonl"
    write_corpus(corpus)
    build = {"corpus": str(corpus), "layers": LAYERS, "width": WIDTH, "heads": HEADS}
    sizes = {"vocabulary": VOCABULARY, "context": CONTEXT}
    backend = create_backend({"build": {**build, **sizes}}, seed=0, directory=folder)
    await backend.engine.start()
    resources.push_async_callback(backend.engine.stop)
    assert backend.learner is not None
    await backend.learner.save_model(model)
    store = await resources.enter_async_context(open_store(f"sqlite:///{folder / 'store.db'}"))
    gateway = create_gateway(store=store, upstreams={"policy": backend.engine}, config=GatewayConfig())
    await gateway.start()
    resources.push_async_callback(gateway.stop)
    return resources, Contender(store, gateway)


def main(model: Path) -> None:
    """Serves until there are no more questions."""
    model.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder, asyncio.Runner() as runner:
        resources, contender = runner.run(_enter(Path(folder), model))
        watch = Stopwatch()

        def lap() -> dict[str, float]:
            nonlocal watch
            taken, watch = watch.per(1), Stopwatch()
            return taken

        try:
            serve({"open": lambda attempts: runner.run(contender.open(attempts)), "lap": lap})
        finally:
            runner.run(resources.aclose())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
