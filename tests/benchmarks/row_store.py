"""Row `store`: spans and leases in process and over HTTP, against floors and Agent Lightning 0.3 and 1.0.

In process, the opponents are what one would write by hand on the same database (`limit`) and the store in memory of
Agent Lightning 0.3 (`al03`); ours is SQLite, and PostgreSQL against its own floor. Over HTTP (`al03_http`,
`al10_http`), ours is SQLite too, and the others keep all in memory. A cell is one operation with so many spans a batch,
workers or clients; what is compared is CPU, over HTTP that of the server.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from contender_store import SQLITE
from measurement import Row, Spread, interleaved
from opponents import AL03, Missing
from store_servers import SERVERS, Cost
from workers import Worker, cpu_seconds

from lightning_plugin_postgres.testing import PostgresServer, find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE: Final = Path(__file__).parent
BATCHES: Final = {1: 2_000, 32: 8_192, 256: 16_384}
"""Spans to append, by spans a batch."""
WORKERS: Final = (1, 8, 32)
CYCLES: Final = 960
REQUESTS: Final = 640
_POSTGRES_SETTLES_S: Final = 0.3  # until the processes of closed connections have ended

Contenders: TypeAlias = "dict[str, Callable[[], float]]"
Cell: TypeAlias = "dict[str, list[float]]"
"""CPU microseconds of one operation by contender, one for each round."""
Served: TypeAlias = "dict[str, dict[int, list[dict[str, Cost]]]]"
"""Costs by contender and number of clients: by operation, for each round."""


def measure(*, rounds: int = 7) -> Row:
    """Measures all cells; opponents that cannot run here are left out, with the reason."""
    missing: dict[str, str] = {}
    in_process = _in_process(rounds, missing) | _on_postgres(rounds, missing)
    served = _over_http(rounds, missing)
    over_http = _cells(served)
    smallest = {
        "limit": _smallest(in_process, "floor"),
        "al03": _smallest(in_process, "al03"),
        "al03_http": _smallest(over_http, "al03"),
        "al10_http": _smallest(over_http, "al10"),
    }
    found = {key: cell for key, cell in smallest.items() if cell is not None}
    return Row(
        ratios={key: ratio for key, (ratio, _) in found.items()},
        detail={
            "rounds": rounds,
            "unit": "CPU microseconds of one span, lease cycle or request; over HTTP those of the server",
            "missing": missing,
            "smallest": {key: cell for key, (_, cell) in found.items()},
            **_spreads(in_process | over_http),
            **_latencies(served),
        },
    )


def _in_process(rounds: int, missing: dict[str, str]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(_worker(sys.executable, "contender_store"))
        floor = stack.enter_context(_worker(sys.executable, "floor_sqlite"))
        al03 = _al03(stack, missing)
        for batch, total in BATCHES.items():
            work = {"batch": batch, "count": total}
            contenders: Contenders = {
                "ours": partial(_cpu_us, ours, "spans", url=SQLITE, **work),
                "ours in memory": partial(_cpu_us, ours, "spans", url="memory://", **work),
                "ours, 8 writers": partial(_cpu_us, ours, "spans", url=SQLITE, writers=8, **work),
                "floor": partial(_cpu_us, floor, "spans", **work),
            }
            if al03 is not None:
                contenders["al03"] = partial(_cpu_us, al03, "spans", **work)
            cells[f"spans, batches of {batch}"] = interleaved(contenders, rounds=rounds)
        for workers in WORKERS:
            work = {"workers": workers, "count": CYCLES}
            contenders = {
                "ours": partial(_cpu_us, ours, "cycles", url=SQLITE, **work),
                "ours in memory": partial(_cpu_us, ours, "cycles", url="memory://", **work),
                "floor": partial(_cpu_us, floor, "cycles", **work),
            }
            if al03 is not None:
                contenders["al03"] = partial(_cpu_us, al03, "cycles", **work)
            cells[f"leases, {workers} workers"] = interleaved(contenders, rounds=rounds)
    return cells


def _on_postgres(rounds: int, missing: dict[str, str]) -> dict[str, Cell]:
    if find_binaries() is None:
        missing["postgresql"] = "there is no PostgreSQL here"
        return {}
    cells: dict[str, Cell] = {}
    with (
        PostgresServer(settings={"max_connections": "80"}) as server,
        _worker(sys.executable, "contender_store") as ours,
        _worker(sys.executable, "floor_postgres") as floor,
    ):
        postmaster, serial = _postmaster(server), count()
        for workers in WORKERS:
            work = {"workers": workers, "count": CYCLES}

            def ours_us(work: dict[str, int] = work) -> float:
                url = server.url(schema=f"ours{next(serial)}")
                return _with_server(postmaster, partial(_cpu_us, ours, "cycles", url=url, **work))

            def floor_us(work: dict[str, int] = work) -> float:
                question = {"url": server.url(), "schema": f"floor{next(serial)}", **work}
                return _with_server(postmaster, partial(_cpu_us, floor, "cycles", **question))

            contenders: Contenders = {"ours": ours_us, "floor": floor_us}
            cells[f"leases on PostgreSQL, {workers} workers"] = interleaved(contenders, rounds=rounds)
    return cells


def _over_http(rounds: int, missing: dict[str, str]) -> Served:
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        running = {}
        for name, server in SERVERS.items():
            try:
                running[name] = stack.enter_context(server())
            except Missing as error:
                missing[f"{name}_http"] = str(error)
        stack.callback(os.sched_setaffinity, 0, cores)
        found: Served = {name: {} for name in running}
        for clients in WORKERS:
            contenders = {name: partial(server.costs, clients, REQUESTS) for name, server in running.items()}
            for name, costs in interleaved(contenders, rounds=rounds).items():
                found[name][clients] = costs
    return found


def _worker(python: str | Path, name: str, environment: Mapping[str, str] | None = None) -> Worker:
    return Worker([str(python), str(HERE / f"{name}.py")], environment=environment).wait_ready()


def _al03(stack: ExitStack, missing: dict[str, str]) -> Worker | None:
    try:
        return stack.enter_context(_worker(AL03.bin / "python", "opponent_al03_store", AL03.environment))
    except Missing as error:
        missing["al03"] = str(error)
        return None


def _cpu_us(worker: Worker, cell: str, **question: object) -> float:
    return float(worker.ask(cell, **question)["cpu_s"]) * 1e6


def _with_server(postmaster: int, cell: Callable[[], float]) -> float:
    before_s = cpu_seconds(postmaster)
    own_us = cell()
    time.sleep(_POSTGRES_SETTLES_S)
    return own_us + (cpu_seconds(postmaster) - before_s) / CYCLES * 1e6


def _postmaster(server: PostgresServer) -> int:
    """The process that all others of the server descend from."""
    with server.connect() as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        return int(Path(f"/proc/{row[0]}/stat").read_text().rpartition(")")[2].split()[1])


def _cells(served: Served) -> dict[str, Cell]:
    cells: dict[str, Cell] = defaultdict(dict)
    for contender, by_clients in served.items():
        for clients, costs in by_clients.items():
            for operation in costs[0]:
                samples = [one[operation].cpu_ms * 1e3 for one in costs]
                cells[f"HTTP {operation}, {clients} clients"][contender] = samples
    return dict(cells)


def _latencies(served: Served) -> dict[str, object]:
    """Operations per second and latencies: what the CPU does not tell."""
    return {
        f"HTTP {operation}, {clients} clients, {contender}": {
            name: round(statistics.median(asdict(one[operation])[name] for one in costs), 2)
            for name in ("per_s", "p50_ms", "p99_ms")
        }
        for contender, by_clients in served.items()
        for clients, costs in by_clients.items()
        for operation in costs[0]
    }


def _spreads(cells: Mapping[str, Cell]) -> dict[str, object]:
    """Medians and spreads by cell and contender, with the opponents' cost divided by ours."""
    return {
        cell: {
            **{contender: asdict(Spread.of(samples, digits=1)) for contender, samples in costs.items()},
            **{
                f"{contender} / ours": round(_ratio(costs, contender), 2)
                for contender in costs
                if not contender.startswith("ours")
            },
        }
        for cell, costs in cells.items()
    }


def _ratio(costs: Cell, opponent: str) -> float:
    return statistics.median(costs[opponent]) / statistics.median(costs["ours"])


def _smallest(cells: Mapping[str, Cell], opponent: str) -> tuple[float, str] | None:
    """The smallest ratio and its cell, if the opponent was there."""
    found = [(_ratio(costs, opponent), cell) for cell, costs in cells.items() if opponent in costs]
    return min(found, default=None)
