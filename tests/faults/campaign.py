"""Crash campaigns: writers do everything at once, one process after the other is killed, and nothing may be lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from agentlightning.cli._stores import store_at
from agentlightning.plugins import load_plugins
from faults import verifier
from faults.invariants import Violation, require
from faults.ledger import Ledger
from faults.services import SERVICES

if TYPE_CHECKING:
    from agentlightning.store import Store
    from faults.services import Service

_TESTS = Path(__file__).parent.parent
_PATIENCE_S = 120.0
_DRAIN_S = 30.0
_ROUNDS = 10
"""Kills of one store, before it is verified as a whole and a fresh one is taken."""


@dataclass
class Report:
    """What a campaign did.

    Attributes:
        kills: By what was killed.
        operations: Acknowledged, by verb.
        refused: By verb.
        doubtful: Requests without an answer, which were repeated.
        spooled: Spans that waited on disk for their server.
        found: What the stores had at the end.
        rounds: Partial checks; epochs: complete ones.
        longest_s: Until the last lease of the dead was free.
    """

    backend: str
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    doubtful: int = 0
    spooled: int = 0
    rounds: int = 0
    epochs: int = 0
    longest_s: float = 0.0
    seconds: float = 0.0


class Writer:
    """A writer process, and the thread that reads what it says."""

    def __init__(self, service: Service, ledger: Ledger, *, name: str, seed: int, fault: str = "") -> None:
        path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.writer", service.url, name, str(seed), *filter(None, [fault])],
            stdout=subprocess.PIPE,
            env=os.environ | service.environment | {"PYTHONPATH": path},
        )
        self._ledger = ledger
        self._said = False
        self._reading = threading.Thread(target=self._read, name=name)
        self._reading.start()

    def kill(self) -> str:
        """Kills it and reads the rest; what it was, or nothing if it had ended by itself."""
        self._process.kill()
        self._reading.join()
        if self._process.wait() != -signal.SIGKILL:
            return ""
        return "writer" if self._said else "writer at its start"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                if line.endswith(b"\n"):
                    self._ledger.feed(line)
                    self._said = True


def run_campaign(
    backend: str,
    *,
    kills: int,
    operations: int = 0,
    seconds: float = 600.0,
    seed: int,
    fault: str = "",
    pace_s: float = 1.0,
) -> Report:
    """Kills until there were enough kills and enough operations, or the time is up.

    Args:
        backend: One of `SERVICES`.
        kills: Least number of kills.
        operations: Least number of acknowledged operations.
        seconds: When it ends, whatever it has reached; the epoch at hand is ended in full.
        fault: What the writers' store does wrong, of `FAULTS`.
        pace_s: Longest time between two kills.

    Raises:
        Violation: A promise was broken; the message has the seed.
    """
    report = Report(backend, seed)
    chance = random.Random(seed)
    began = time.monotonic()
    enough = False
    while not enough:
        left = max(kills - report.kills.total(), 1)
        try:
            asyncio.run(_epoch(report, chance, rounds=min(left, _ROUNDS), fault=fault, pace_s=pace_s))
        except Violation as error:
            raise Violation(f"{backend}, seed {seed}, epoch {report.epochs}: {error}") from error
        report.epochs += 1
        report.seconds = round(time.monotonic() - began, 1)
        reached = report.kills.total() >= kills and report.operations.total() >= operations
        enough = reached or report.seconds > seconds
    return report


async def _epoch(report: Report, chance: random.Random, *, rounds: int, fault: str, pace_s: float) -> None:
    """Torments one fresh store, then verifies it."""
    with SERVICES[report.backend]() as service, mock.patch.dict(os.environ, service.environment):
        ledger = Ledger()
        names = (f"w{report.epochs}.{number}" for number in range(10**6))

        def start() -> Writer:
            return Writer(service, ledger, name=next(names), seed=report.seed, fault=fault)

        writers = [start() for _ in range(chance.randint(1, 3))]
        try:
            await _wait_for_work(ledger)
            async with store_at(service.url, load_plugins()) as store:
                for _ in range(rounds):
                    await asyncio.sleep(chance.uniform(0.05, pace_s))
                    killed = await asyncio.to_thread(service.kill, chance)
                    if not killed:
                        victim = chance.randrange(len(writers))
                        killed = await asyncio.to_thread(writers[victim].kill)
                        _expect_killed(killed)
                        writers[victim] = start()
                    report.kills[killed] += 1
                    await verifier.glance(store, ledger)
                    report.rounds += 1
            await asyncio.sleep(chance.uniform(0.05, pace_s))
        finally:
            killed_last = [await asyncio.to_thread(writer.kill) for writer in writers]
        for killed in killed_last:
            _expect_killed(killed)
            report.kills[killed] += 1
        async with store_at(
            service.url, load_plugins()
        ) as store:  # a new client sends what dead ones left on disk
            report.doubtful += await verifier.ask_again(store, ledger)
            report.longest_s = max(report.longest_s, await verifier.wait_until_free(store))
            report.found += await _verified(store, ledger, service)
        service.check()
        report.operations += ledger.operations
        report.refused += ledger.refused
        report.spooled += ledger.spooled


def _expect_killed(killed: str) -> None:
    require(bool(killed), "a writer ended by itself; its message is above")


async def _verified(store: Store, ledger: Ledger, service: Service) -> Counter[str]:
    until = time.monotonic() + (_DRAIN_S if ledger.spooled else 0.0)
    while True:
        try:
            return await verifier.verify(store, ledger, skew_s=service.skew_s)
        except Violation:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(1.0)


async def _wait_for_work(ledger: Ledger) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not ledger.total:
        require(time.monotonic() < until, "no writer has acknowledged anything, after seconds", _PATIENCE_S)
        await asyncio.sleep(0.02)
