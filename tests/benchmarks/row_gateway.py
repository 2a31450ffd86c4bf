"""Row `gateway`: calls through a recording gateway, against a hand-written one, LiteLLM, Agent Lightning 0.3 and 1.0.

What is compared (`limit`, `al10`, `litellm`, `al03`) is the CPU of the gateway, all its processes together, for JSON
answers of 64 and 512 tokens with ids and log-probabilities, by 1, 8 and 64 clients. Ours writes each call to a SQLite
file before it answers; the others keep calls in memory, and LiteLLM keeps none. After each cell, every call must be
found recorded, with all its ids and log-probabilities.

Beside the ratios: latencies added to those of the upstream itself; streams of 512 tokens; 1 000 streams at once; memory
after many calls. Gateways have one core, the upstream and the clients the other. `AGL_BENCH_SCALE` is the share of 10⁵
calls that memory is measured over (default 0.1), and it scales the streams at once where it is less.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway_servers import CHAT, GATEWAYS, GatewayServer, Opened, free_port, wait_for_answer
from measurement import Row, Spread, interleaved
from opponents import FLOOR, Missing
from workers import CLIENT_CORE, Program, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE: Final = Path(__file__).parent
TOKENS: Final = (64, 512)
CLIENTS: Final = (1, 8, 64)
CALLS: Final = {"direct": 2_000, "floor": 1_500, "ours": 640, "al10": 192, "litellm": 32, "al03": 24}
"""Of a cell with answers of 64 tokens; a quarter as many have 512, for those that take long a half."""
STREAMS: Final = {"direct": 64, "floor": 64, "ours": 64, "litellm": 8, "al03": 8}
STREAMED: Final = 512
ATTEMPTS: Final = 64
"""That the calls of a cell are spread over."""
AT_ONCE: Final = 1_000
AT_ONCE_TOKENS: Final = 64
AT_ONCE_PACE_MS: Final = 200
IN_MEMORY: Final = 100_000
_SETTLES_S: Final = 0.3  # what is still to be done after the last answer is part of the cost
_KEYS: Final = {"limit": "floor", "al10": "al10", "litellm": "litellm", "al03": "al03"}


@dataclass(frozen=True)
class Cost:
    """What calls took.

    Attributes:
        cpu_s: CPU seconds of the gateway for 1 000 calls.
        per_s: Calls per second.
        first_p50_ms: Until the first byte after the head.
        resident_mib: Memory of the gateway when it was done.
    """

    cpu_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    first_p99_ms: float
    resident_mib: float


Cell: TypeAlias = "dict[str, list[Cost]]"


class Bench:
    """Gateways in front of one upstream, and what calls them."""

    def __init__(self, stack: ExitStack) -> None:
        python = str(FLOOR.bin / "python")
        self.upstream = free_port()
        stub = Program([python, str(HERE / "stub_llm.py"), str(self.upstream)], cores=CLIENT_CORE)
        wait_for_answer(stack.enter_context(stub), self.upstream, "/")
        load = Worker([python, str(HERE / "gateway_load.py")], cores=CLIENT_CORE)
        self.load = stack.enter_context(load).wait_ready()
        self.gateways: dict[str, GatewayServer] = {}
        self.missing: dict[str, str] = {}
        for name, gateway in GATEWAYS.items():
            try:
                self.gateways[name] = stack.enter_context(gateway(self.upstream))
            except Missing as error:
                self.missing[name] = str(error)

    def direct(self, *, count: int, **call: object) -> Cost:
        """Calls of the upstream itself."""
        taken = self.load.ask("calls", port=self.upstream, targets=[(CHAT, "")], count=count, **call)
        return Cost(cpu_s=0.0, resident_mib=0.0, **taken)

    def cost(self, name: str, *, count: int, tokens: int, attempts: int = ATTEMPTS, **call: object) -> Cost:
        """Calls through a gateway.

        Raises:
            AssertionError: An answer was wrong, or a call was not recorded as it should be.
        """
        gateway = self.gateways[name]
        opened = gateway.open(attempts)
        stream = bool(call.get("stream"))
        exact = gateway.exact or not stream
        cost = self._taken(gateway, opened, count=count, tokens=tokens, exact=exact, **call)
        kept = gateway.close(tokens=tokens, count=count)
        recorded = gateway.records_streams if stream else gateway.records
        if recorded and (kept.recorded, kept.complete) != (count, count):
            raise AssertionError(
                f"{name} answered {count} calls with {tokens} tokens and has {kept} ({call})"
            )
        return cost

    def _taken(self, gateway: GatewayServer, opened: Opened, *, count: int, **call: object) -> Cost:
        with gateway.turn():
            before_s = gateway.program.cpu_s
            taken = self.load.ask("calls", port=opened.port, targets=opened.targets, count=count, **call)
            time.sleep(_SETTLES_S)
            cpu_s = gateway.program.cpu_s - before_s
            resident = gateway.program.resident_bytes
        return Cost(cpu_s=cpu_s / count * 1e3, resident_mib=resident / 2**20, **taken)


def measure(*, rounds: int = 5) -> Row:
    """Measures all cells; opponents that cannot run here are left out, with the reason."""
    scale = float(os.environ.get("AGL_BENCH_SCALE", "0.1"))
    with ExitStack() as stack:
        bench = Bench(stack)
        whole = {
            f"JSON, {tokens} tokens, {clients} clients": _whole(bench, tokens, clients, rounds=rounds)
            for tokens in TOKENS
            for clients in CLIENTS
        }
        streamed = _streamed(bench, rounds=rounds)
        at_once = _at_once(bench, max(1, round(AT_ONCE * min(1.0, 10 * scale))))
        memory = _memory(bench, max(1_000, round(IN_MEMORY * scale)))
    smallest = {key: _smallest(whole, opponent) for key, opponent in _KEYS.items()}
    found = {key: one for key, one in smallest.items() if one is not None}
    return Row(
        ratios={key: ratio for key, (ratio, _) in found.items()},
        detail={
            "rounds": rounds,
            "unit": "CPU seconds of 1 000 calls",
            "missing": bench.missing,
            "smallest": {key: cell for key, (_, cell) in found.items()},
            **_told(whole),
            **_told(streamed),
            **_told(at_once),
            "memory": memory,
        },
    )


def _whole(bench: Bench, tokens: int, clients: int, *, rounds: int) -> Cell:
    def count(name: str) -> int:
        calls = CALLS[name] // (1 if tokens == TOKENS[0] else 2 if CALLS[name] < CALLS["al10"] else 4)
        return max(calls, clients)

    call = {"tokens": tokens, "clients": clients}
    contenders: dict[str, Callable[[], Cost]] = {
        "direct": partial(bench.direct, count=count("direct"), **call)
    }
    for name in bench.gateways:
        contenders[name] = partial(bench.cost, name, count=count(name), **call)
    return interleaved(contenders, rounds=rounds)


def _streamed(bench: Bench, *, rounds: int) -> dict[str, Cell]:
    """Streams of a model that is slow, and of one that is as fast as can be."""
    cells = {}
    for told, pace_ms, clients, most in (("5 ms a token", 5, 4, 8), ("at full speed", 0, 8, STREAMED)):
        call = {"tokens": STREAMED, "clients": clients, "stream": True, "pace_ms": pace_ms}
        contenders = {"direct": partial(bench.direct, count=min(most, STREAMS["direct"]), **call)}
        for name, gateway in bench.gateways.items():
            if gateway.streams:
                contenders[name] = partial(bench.cost, name, count=min(most, STREAMS[name]), **call)
        cells[f"SSE, {STREAMED} tokens {told}, {clients} clients"] = interleaved(contenders, rounds=rounds)
    return cells


def _at_once(bench: Bench, streams: int) -> dict[str, Cell]:
    """As many streams as there are connections, once; every one must come to its end, and be recorded."""
    call = {
        "count": streams, "clients": streams, "tokens": AT_ONCE_TOKENS,
        "stream": True, "pace_ms": AT_ONCE_PACE_MS,
    }  # fmt: skip
    contenders = {"direct": [bench.direct(**call)]}
    for name in ("floor", "ours"):
        if name in bench.gateways:
            contenders[name] = [bench.cost(name, **call)]
    return {f"SSE, {streams} streams at once, {AT_ONCE_TOKENS} tokens {AT_ONCE_PACE_MS} ms each": contenders}


def _memory(bench: Bench, calls: int) -> dict[str, object]:
    """What ours holds after a tenth of many calls, and after all; attempts come and go meanwhile."""
    if "ours" not in bench.gateways:
        return {}
    part = calls // 10
    resident_mib = [
        bench.cost("ours", count=part, tokens=TOKENS[0], clients=CLIENTS[1]).resident_mib for _ in range(10)
    ]
    growth = (resident_mib[-1] - resident_mib[0]) * 2**20 / (9 * part)
    return {
        "calls": 10 * part,
        "resident_mib": [round(one, 1) for one in resident_mib],
        "bytes_a_call_after_the_first_tenth": round(growth),
    }


def _told(cells: Mapping[str, Cell]) -> dict[str, object]:
    """Medians and spreads by cell and contender."""
    return {
        cell: {name: _summary(costs, of["direct"]) for name, costs in of.items()}
        for cell, of in cells.items()
    }


def _summary(costs: list[Cost], direct: list[Cost]) -> dict[str, object]:
    told: dict[str, object] = {"cpu_s": asdict(Spread.of([one.cpu_s for one in costs], digits=3))}
    for name in ("per_s", "p50_ms", "p99_ms", "first_p50_ms", "first_p99_ms", "resident_mib"):
        told[name] = round(_median(costs, name), 2)
    for name in ("p50_ms", "p99_ms", "first_p50_ms"):
        told[f"added_{name}"] = round(_median(costs, name) - _median(direct, name), 2)
    return told


def _median(costs: list[Cost], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in costs))


def _smallest(cells: Mapping[str, Cell], opponent: str) -> tuple[float, str] | None:
    """The smallest ratio and its cell, if the opponent was there."""
    found = [
        (_median(of[opponent], "cpu_s") / _median(of["ours"], "cpu_s"), cell)
        for cell, of in cells.items()
        if opponent in of and "ours" in of
    ]
    return min(found, default=None)
