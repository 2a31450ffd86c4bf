"""An agent as it is, traced by hand with the OpenTelemetry SDK, and captured by us: `contender_capture.py PORT`.

Runs as a `Worker`. The three take turns within one question, a few rollouts at a time, so that little is measured
between noise of the machine.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from agent_calls import CALLS, MESSAGES, MODEL, TOKENS, agent, call
from answering import serve
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agentlightning import semconv
from agentlightning.capture import Exporter, RolloutContext, install_tracing, rollout_span
from agentlightning.store import SpanQuery, Store, open_store
from agentlightning.types import Attempt, Mode, RolloutRequest
from lightning_adapter_openai import OpenAIAdapter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from openai import OpenAI
    from opentelemetry.sdk.trace import ReadableSpan

BLOCK: Final = 10
"""Rollouts of a turn."""


class NoExporter(SpanExporter):
    """Counts spans and forgets them."""

    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        return SpanExportResult.SUCCESS


def rollouts(*, count: int) -> dict[str, float]:
    """CPU seconds of one call: `none`, `sdk`, `ours`."""
    return asyncio.run(_rollouts(count))


async def _rollouts(count: int) -> dict[str, float]:
    client, solve = agent(PORT)
    exported = NoExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exported))
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder, client:
        async with (
            open_store(f"sqlite:///{Path(folder) / 'store.db'}") as store,
            Exporter(store.spans) as exporter,
        ):
            taken = {"none": 0.0, "sdk": 0.0, "ours": 0.0}
            for turn in range(count // BLOCK + 1):  # the first one warms up
                attempts = await _attempts(store)
                contenders: dict[str, Callable[[], Awaitable[None]]] = {
                    "none": lambda: _plain(solve),
                    "sdk": lambda: _with_sdk(client, provider),
                    "ours": partial(_captured, attempts, exporter, solve),
                }
                for name, run in contenders.items():
                    gc.collect()
                    seconds = await _seconds(run, name=name)
                    taken[name] += seconds if turn else 0.0
            made = (count // BLOCK + 1) * BLOCK
            provider.shutdown()
            kept = await store.spans.count(SpanQuery())
    if (kept, exported.count) != (made * (CALLS + 1),) * 2:
        raise AssertionError(f"{made} rollouts have {kept} spans in the store and {exported.count} exported")
    return {name: seconds / (count // BLOCK * BLOCK * CALLS) for name, seconds in taken.items()}


async def _attempts(store: Store) -> list[Attempt]:
    await store.rollouts.enqueue([RolloutRequest(task=None) for _ in range(BLOCK)])
    return [lease.attempt for lease in await store.rollouts.lease("bench", limit=BLOCK, ttl_s=600.0)]


async def _seconds(run: Callable[[], Awaitable[None]], *, name: str) -> float:
    """CPU of a block, its spans being out of the way at its end."""
    adapter = OpenAIAdapter() if name == "ours" else None
    if adapter:
        adapter.instrument(install_tracing())
    before = time.process_time()
    await run()
    taken = time.process_time() - before
    if adapter:
        adapter.uninstrument()
    return taken


async def _plain(solve: Callable[[], str]) -> None:
    for _ in range(BLOCK):
        await asyncio.to_thread(solve)


async def _with_sdk(client: OpenAI, provider: TracerProvider) -> None:
    tracer = provider.get_tracer("bench")

    def solve() -> None:
        with tracer.start_as_current_span("rollout", context=trace.set_span_in_context(trace.INVALID_SPAN)):
            for _ in range(CALLS):
                with tracer.start_as_current_span(f"chat {MODEL}", kind=trace.SpanKind.CLIENT) as span:
                    span.set_attributes(
                        {
                            semconv.OPERATION: semconv.OPERATION_CHAT,
                            semconv.PROVIDER: "openai",
                            semconv.REQUEST_MODEL: MODEL,
                            semconv.REQUEST_MAX_TOKENS: TOKENS,
                            semconv.INPUT_MESSAGES: msgspec.json.encode(MESSAGES).decode(),
                        }
                    )
                    answer = call(client)
                    choice = answer.choices[0]
                    assert answer.usage is not None
                    message = {"role": choice.message.role, "content": choice.message.content}
                    span.set_attributes(
                        {
                            semconv.RESPONSE_ID: answer.id,
                            semconv.RESPONSE_MODEL: answer.model,
                            semconv.FINISH_REASONS: [choice.finish_reason],
                            semconv.INPUT_TOKENS: answer.usage.prompt_tokens,
                            semconv.OUTPUT_TOKENS: answer.usage.completion_tokens,
                            semconv.OUTPUT_MESSAGES: msgspec.json.encode([message]).decode(),
                        }
                    )

    for _ in range(BLOCK):
        await asyncio.to_thread(solve)
        provider.force_flush()


async def _captured(attempts: Sequence[Attempt], exporter: Exporter, solve: Callable[[], str]) -> None:
    for attempt in attempts:
        context = RolloutContext(
            rollout_id=attempt.rollout_id,
            attempt_id=attempt.id,
            mode=Mode.TRAIN,
            sink=exporter.sink(attempt.id, token=attempt.token),
        )

        def run(context: RolloutContext = context) -> None:
            with rollout_span(context, task=None):
                solve()

        await asyncio.to_thread(run)
        await exporter.flush(attempt.id)


if __name__ == "__main__":
    PORT = int(sys.argv[1])
    serve({"rollouts": rollouts})
