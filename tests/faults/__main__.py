"""Runs the long campaigns: `python tests/faults [NAME …] [--kills N] [--ops N] [--seconds N] [--seed N] [--json]`.

Prints counts; the first broken promise ends it with the seed that shows it again.
"""

# ruff: noqa: T201 - what a program prints is its result

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from agentlightning.store import open_store
from faults.campaign import run_campaign
from faults.herd import run_herd
from faults.history import record
from faults.invariants import Violation
from faults.runners import run_runners
from faults.services import SERVICES, missing
from faults.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

_CLIENTS = 8
_SHARES = {"sqlite": 0.4, "sqlite-full": 0.2, "http": 0.2, "postgresql": 0.2}
"""Of the kills, operations and seconds of all crash campaigns."""


def crashes(options: argparse.Namespace) -> dict[str, Any]:
    """Kills writers and servers, on every backend."""
    found: dict[str, Any] = {}
    for backend in SERVICES:
        if reason := missing(backend):
            print(f"{backend}: left out, {reason}")
            continue
        share = _SHARES[backend]
        report = run_campaign(
            backend,
            kills=round(options.kills * share),
            operations=round(options.ops * share),
            seconds=options.seconds * share,
            seed=options.seed,
        )
        counts = {
            name: dict(each) if isinstance(each, Counter) else each for name, each in vars(report).items()
        }
        found[backend] = counts | {
            "total_kills": report.kills.total(),
            "total_operations": report.operations.total(),
        }
    found["total_kills"] = sum(each["total_kills"] for each in found.values())
    found["total_operations"] = sum(found[name]["total_operations"] for name in SERVICES if name in found)
    return found


def simulation(options: argparse.Namespace) -> dict[str, Any]:
    """Runs many seeds in simulated time."""
    faults: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    calls, began = 0, time.monotonic()
    for seed in range(options.seed, options.seed + options.seeds):
        outcome = simulate(seed)
        calls += outcome.calls
        faults += outcome.faults
        ends += outcome.ends
    seconds = time.monotonic() - began
    return {
        "seeds": options.seeds,
        "calls": calls,
        "faults": dict(faults),
        "rollouts": dict(ends),
        "seconds": round(seconds, 1),
        "seeds_per_minute": round(60 * options.seeds / seconds),
    }


def history(options: argparse.Namespace) -> dict[str, Any]:
    """Checks what concurrent clients heard against the lifecycle."""
    began = time.monotonic()
    counts: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + 10):
        counts += asyncio.run(_history(options.calls // 10, seed))
    return {"calls": counts.total(), "heard": dict(counts), "seconds": round(time.monotonic() - began, 1)}


async def _history(calls: int, seed: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            url = f"sqlite:///{folder}/store.db"
            stores = [await stack.enter_async_context(open_store(url)) for _ in range(_CLIENTS)]
            return (await record(stores, calls=calls, seed=seed)).check()


def herd(options: argparse.Namespace) -> dict[str, Any]:
    """Lets 32 and 64 workers compete for one queue."""
    return {
        str(workers): asdict(run_herd(workers=workers, rollouts=options.rollouts)) for workers in (32, 64)
    }


def runners(options: argparse.Namespace) -> dict[str, Any]:
    """Kills `agl work` in the middle of its rollouts."""
    return {
        backend: asdict(run_runners(backend, kills=options.runner_kills, rollouts=1000, seed=options.seed))
        for backend in ("sqlite", "http")
    }


CAMPAIGNS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "crashes": crashes,
    "runners": runners,
    "simulation": simulation,
    "history": history,
    "herd": herd,
}


def main() -> int:
    """Runs what was asked for, or all."""
    parser = argparse.ArgumentParser(prog="nox -s faults --", description="Torments the store on purpose.")
    parser.add_argument("name", nargs="*", help=f"of: {', '.join(CAMPAIGNS)} (default: all)")
    parser.add_argument("--kills", type=int, default=200, help="least kills of all crash campaigns")
    parser.add_argument(
        "--ops", type=int, default=1_000_000, help="least acknowledged operations of all of them"
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="when crash campaigns end all the same")
    parser.add_argument("--runner-kills", type=int, default=10, help="kills of `agl work`, on each backend")
    parser.add_argument("--seeds", type=int, default=10_000, help="seeds of the simulation")
    parser.add_argument("--calls", type=int, default=50_000, help="calls of the checked histories")
    parser.add_argument("--rollouts", type=int, default=10_000, help="rollouts of the herds")
    parser.add_argument("--seed", type=int, help="first seed (default: drawn, and printed)")
    parser.add_argument("--json", action="store_true", help="end each campaign with one line of JSON")
    options = parser.parse_args()
    if unknown := sorted(set(options.name) - set(CAMPAIGNS)):
        parser.error(f"there is no campaign {', '.join(unknown)}; there are: {', '.join(CAMPAIGNS)}")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    for name in options.name or CAMPAIGNS:
        print(f"{name}: seed {options.seed}", flush=True)
        try:
            found = CAMPAIGNS[name](options)
        except Violation as violation:
            print(f"{name}: BROKEN PROMISE\n  {violation}", file=sys.stderr)
            return 1
        for key, value in found.items():
            print(f"  {key}: {value}", flush=True)
        if options.json:
            print(json.dumps({"name": name, "seed": options.seed} | found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
