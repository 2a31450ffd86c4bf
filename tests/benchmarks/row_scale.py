"""Row `scale`: latencies of a store with 10⁵ rollouts and 10⁷ small spans, against the same store a hundredth as full.

`limit` is the latency of the small store divided by that of the full one, the smallest over leasing, appending and
paging: 0.66 is half as long again. `AGL_BENCH_SCALE=0.01` fills both stores so much less; the files lie where temporary
files do (`TMPDIR`).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from measurement import Row, Spread, interleaved

from agentlightning.store import RolloutQuery, SpanQuery, Store, open_store
from agentlightning.types import Attempt, RolloutRequest, Span, SpanSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROLLOUTS: Final = 100_000
SPANS_OF_ROLLOUT: Final = 100
BYTES_OF_SPAN: Final = 1_000
"""Room to have on the disk, write-ahead log included."""
SMALLER: Final = 100
CHUNK: Final = 200
"""Rollouts filled in at once."""
OPERATIONS: Final = 200
"""Of each kind in a round."""
BATCH: Final = 32
PAGE: Final = 100


def measure(*, rounds: int = 5) -> Row:
    """Fills two stores and measures both."""
    scale = float(os.environ.get("AGL_BENCH_SCALE", "1"))
    sizes = {"full": max(CHUNK, int(ROLLOUTS * scale)), "small": max(CHUNK, int(ROLLOUTS * scale) // SMALLER)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agl-bench-")))
        _check_room(folder, sum(sizes.values()))
        runner = stack.enter_context(asyncio.Runner())
        operations = {}
        filled_s: dict[str, float] = {}
        for name, size in sizes.items():
            store = open_store(f"sqlite:///{folder / name}.db")
            runner.run(_open(store))
            stack.callback(_close, runner, store)
            started = time.perf_counter()
            runner.run(_fill(store, size))
            filled_s[name] = round(time.perf_counter() - started, 1)
            operations[name] = runner.run(_operations(store, size))
        cells = {}
        for cell in operations["full"]:
            contenders = {
                name: partial(_latencies, runner, of_store[cell]) for name, of_store in operations.items()
            }
            cells[cell] = interleaved(contenders, rounds=rounds)
        megabytes = (folder / "full.db").stat().st_size // 2**20
    return _row(cells, {"rounds": rounds, "rollouts": sizes, "filled_s": filled_s, "full_mib": megabytes})


async def _open(store: Store) -> None:
    await store.__aenter__()


def _close(runner: asyncio.Runner, store: Store) -> None:
    async def close() -> None:
        await store.__aexit__(None, None, None)

    runner.run(close())


def _row(cells: dict[str, dict[str, list[list[float]]]], detail: dict[str, object]) -> Row:
    ratios: list[float] = []
    for cell, rounds_of in cells.items():
        medians = {name: [statistics.median(one) for one in samples] for name, samples in rounds_of.items()}
        worst = {name: max(map(max, samples)) for name, samples in rounds_of.items()}
        ratios.append(statistics.median(medians["small"]) / statistics.median(medians["full"]))
        detail[cell] = {
            **{f"{name}, ms": asdict(Spread.of(values)) for name, values in medians.items()},
            **{f"{name}, worst ms": round(value, 2) for name, value in worst.items()},
            "small / full": round(ratios[-1], 2),
        }
    return Row(ratios={"limit": min(ratios)}, detail=detail)


def _check_room(folder: Path, rollouts: int) -> None:
    wanted = rollouts * SPANS_OF_ROLLOUT * BYTES_OF_SPAN
    free = shutil.disk_usage(folder).free
    if free < wanted:
        sys.exit(
            f"scale: the stores may take {wanted / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} free;"
            " name another place with TMPDIR, or less with AGL_BENCH_SCALE=0.1"
        )


def _latencies(runner: asyncio.Runner, operation: Callable[[], Awaitable[None]]) -> list[float]:
    """Milliseconds of each of some operations."""

    async def all_of_them() -> list[float]:
        taken: list[float] = []
        for _ in range(OPERATIONS):
            started = time.perf_counter()
            await operation()
            taken.append((time.perf_counter() - started) * 1e3)
        return taken

    return runner.run(all_of_them())


async def _operations(store: Store, size: int) -> dict[str, Callable[[], Awaitable[None]]]:
    """What is measured, on a store that holds so many rollouts."""
    draw = random.Random(1)
    rollouts, spans = store.rollouts, store.spans
    await rollouts.enqueue([RolloutRequest(task=None)])
    (kept,) = await rollouts.lease("writer", ttl_s=36_000.0)
    serial = count()

    async def lease() -> None:
        await rollouts.enqueue([RolloutRequest(task=None)])
        (taken,) = await rollouts.lease("worker")
        await rollouts.heartbeat(taken.attempt.id, token=taken.attempt.token)
        await rollouts.finish(taken.attempt.id, token=taken.attempt.token)

    async def append() -> None:
        made = list(_spans(kept.attempt, serial, BATCH))
        result = await spans.append(made, token=kept.attempt.token)
        assert result.stored == BATCH

    async def page_of_spans() -> None:
        name = _name(draw.randrange(size))
        page = await spans.page(SpanQuery(rollout_ids=(name,)), limit=PAGE)
        assert len(page.items) == min(PAGE, SPANS_OF_ROLLOUT)

    async def page_of_rollouts() -> None:
        page = await rollouts.list(
            RolloutQuery(newest_first=True), limit=PAGE, cursor=str(draw.randrange(PAGE, size))
        )
        assert page.items

    async def completions() -> None:
        assert await rollouts.completions(after=draw.randrange(size - PAGE), limit=PAGE)

    return {
        "lease": lease,
        f"append {BATCH} spans": append,
        f"page of {PAGE} spans": page_of_spans,
        f"page of {PAGE} rollouts": page_of_rollouts,
        f"{PAGE} completions": completions,
    }


async def _fill(store: Store, size: int) -> None:
    serial = count()
    for start in range(0, size, CHUNK):
        names = [_name(index) for index in range(start, min(start + CHUNK, size))]
        await store.rollouts.enqueue([RolloutRequest(task=None, id=name) for name in names])
        leases = await store.rollouts.lease("filler", limit=len(names), ttl_s=600.0)
        made = [span for lease in leases for span in _spans(lease.attempt, serial, SPANS_OF_ROLLOUT)]
        await store.spans.append(made)
        ends = (store.rollouts.finish(one.attempt.id, token=one.attempt.token) for one in leases)
        await asyncio.gather(*ends)
        if start % (100 * CHUNK) == 0:
            print(f"scale: {start + len(names)} of {size} rollouts", file=sys.stderr)


def _spans(attempt: Attempt, serial: count[int], number: int) -> Iterator[Span]:
    for _ in range(number):
        index = next(serial)
        yield Span(
            rollout_id=attempt.rollout_id,
            attempt_id=attempt.id,
            span_id=f"{index:016x}",
            trace_id=f"{attempt.sequence:032x}",
            name="step",
            operation="agl.operation",
            source=SpanSource.EMIT,
            start_ns=index * 1_000,
            end_ns=index * 1_000 + 500,
            attributes={"index": index},
        )


def _name(index: int) -> str:
    return f"ro-{index:08d}"
