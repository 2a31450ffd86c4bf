"""Row `capture`: what tracing adds to an agent with five calls, against the bare SDK and Agent Lightning 0.3.

What is compared is CPU of the agent's process for one call, less that of the same call untraced. `limit` is spans by
hand with the OpenTelemetry SDK, of the same messages, batched to an exporter that forgets them; ours are instrumented
calls that are durable in a SQLite file when the rollout ends. `al03` is its AgentOps tracer with a store in memory.
Every span is counted.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway_servers import free_port, wait_for_answer
from measurement import Row, Spread, interleaved
from opponents import AL03, Missing
from workers import CLIENT_CORE, SERVER_CORE, Program, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

HERE: Final = Path(__file__).parent
ROLLOUTS: Final = 60


def measure(*, rounds: int = 9) -> Row:
    """Measures all; opponents that cannot run here are left out, with the reason."""
    missing: dict[str, str] = {}
    port = free_port()
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        stub = Program([sys.executable, str(HERE / "stub_llm.py"), str(port)], cores=SERVER_CORE)
        wait_for_answer(stack.enter_context(stub), port, "/")
        ours = _started(stack, [sys.executable, str(HERE / "contender_capture.py"), str(port)])
        contenders: dict[str, Callable[[], dict[str, float]]] = {
            "ours": lambda: ours.ask("rollouts", count=ROLLOUTS)
        }
        try:
            script = [str(AL03.bin / "python"), str(HERE / "opponent_al03_capture.py"), str(port)]
            plain, traced = (_started(stack, [*script, mode]) for mode in ("none", "agentops"))
            contenders["al03"] = lambda: {
                "al03, none": plain.ask("rollouts", count=ROLLOUTS)["cpu_s"],
                "al03": traced.ask("rollouts", count=ROLLOUTS)["cpu_s"],
            }
        except Missing as error:
            missing["al03"] = str(error)
        for samples in interleaved(contenders, rounds=rounds).values():
            for sample in samples:
                for name, seconds in sample.items():
                    cpu_ms[name].append(seconds * 1e3)
    added = {name: _less(cpu_ms[name], cpu_ms["none"]) for name in ("ours", "sdk")}
    if "al03" in cpu_ms:
        added["al03"] = _less(cpu_ms["al03"], cpu_ms["al03, none"])
    medians = {name: statistics.median(samples) for name, samples in added.items()}
    opponents = {"limit": "sdk", "al03": "al03"}
    return Row(
        ratios={key: medians[name] / medians["ours"] for key, name in opponents.items() if name in medians},
        detail={
            "rounds": rounds,
            "unit": "CPU milliseconds of one call",
            "missing": missing,
            "added": {name: asdict(Spread.of(samples)) for name, samples in added.items()},
            "whole": {name: asdict(Spread.of(samples)) for name, samples in cpu_ms.items()},
        },
    )


def _started(stack: ExitStack, command: list[str]) -> Worker:
    worker = Worker(command, environment=AL03.environment, cores=CLIENT_CORE)
    return stack.enter_context(worker.wait_ready())


def _less(traced: list[float], plain: list[float]) -> list[float]:
    """Round by round."""
    return [one - base for one, base in zip(traced, plain, strict=True)]
