"""Row `sampler`: chats sampled through HTTP, against `generate` of transformers in process and vLLM for CPUs.

A model of 3.4 million parameters answers 1, 8 and 32 chats at a time, 32 tokens each, on one thread. Ours goes through
the gateway, which records every call durably with ids and log-probabilities; `generate` gets whole batches and nothing
else to do. Compared are tokens per second (`generate`, `vllm`); `generate_cpu` is the same by seconds of CPU.

vLLM runs in the environment that `nox -s vllm` makes, or the one whose Python `AGL_VLLM_PYTHON` names.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chats import ANSWER, request_body
from gateway_servers import CHAT, free_port, wait_for_answer
from http_load import HOST, Reply, exchange_all, request
from measurement import Row, Spread, interleaved
from opponents import ROOT, Missing
from workers import SERVER_CORE, Program, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE: Final = Path(__file__).parent
CHATS: Final = (1, 8, 32)
"""At a time."""
TURNS: Final = {1: 4, 8: 3, 32: 2}
"""How many times each client asks in a round."""
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1"}
_VLLM_START_S: Final = 240.0


@dataclass(frozen=True)
class Rate:
    """Tokens of answers, by the second."""

    per_s: float
    per_cpu_s: float


def measure(*, rounds: int = 3) -> Row:
    """Measures all cells; an opponent that cannot run here is left out, with the reason."""
    missing: dict[str, str] = {}
    cells: dict[int, dict[str, list[Rate]]] = {}
    with ExitStack() as stack:
        model = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agl-bench-"))) / "model"
        contenders = _contenders(stack, model, missing)
        for chats in CHATS:
            cells[chats] = interleaved(
                {name: partial(measured, chats) for name, measured in contenders.items()}, rounds=rounds
            )
    ratios = {
        "generate": _ratio(cells, "generate", lambda rate: rate.per_s),
        "generate_cpu": _ratio(cells, "generate", lambda rate: rate.per_cpu_s),
        "vllm": _ratio(cells, "vllm", lambda rate: rate.per_s),
    }
    return Row(
        ratios={key: ratio for key, ratio in ratios.items() if ratio is not None},
        detail={
            "rounds": rounds,
            "unit": "tokens of answers a second, on the clock and of CPU",
            "missing": missing,
            **{
                f"{chats} chats": {
                    name: {
                        "per_s": asdict(Spread.of([rate.per_s for rate in rates], digits=0)),
                        "per_cpu_s": asdict(Spread.of([rate.per_cpu_s for rate in rates], digits=0)),
                    }
                    for name, rates in of.items()
                }
                for chats, of in cells.items()
            },
        },
    )


def _contenders(stack: ExitStack, model: Path, missing: dict[str, str]) -> dict[str, Callable[[int], Rate]]:
    ours = _worker("contender_sampler.py", model)
    stack.enter_context(ours.wait_ready())
    floor = _worker("floor_sampler.py", model)
    stack.enter_context(floor.wait_ready())
    fresh = iter(range(0, 10**9, 1000))
    found: dict[str, Callable[[int], Rate]] = {
        "ours": lambda chats: _ours(ours, chats, first=next(fresh)),
        "generate": lambda chats: _generate(floor, chats, first=next(fresh)),
    }
    try:
        port = free_port()
        vllm = stack.enter_context(_vllm(model, port))
        _wait_for_vllm(vllm, port)
        found["vllm"] = lambda chats: _vllm_rate(vllm, port, chats, first=next(fresh))
    except Missing as error:
        missing["vllm"] = str(error)
    return found


def _worker(program: str, model: Path) -> Worker:
    command = [sys.executable, str(HERE / program), str(model)]
    return Worker(command, environment=ONE_THREAD, cores=SERVER_CORE)


def _ours(worker: Worker, chats: int, *, first: int) -> Rate:
    opened = worker.ask("open", attempts=chats)
    (path, key), *_ = opened["targets"]
    worker.ask("lap")
    with worker.turn():
        started = time.perf_counter()
        replies = _ask(opened["port"], path, chats, first=first, key=key)
        wall_s = time.perf_counter() - started
    taken = worker.ask("lap")
    tokens = _tokens(replies)
    return Rate(tokens / wall_s, tokens / taken["cpu_s"])


def _generate(worker: Worker, chats: int, *, first: int) -> Rate:
    taken = worker.ask("generate", first=first, batch=chats, batches=TURNS[chats])
    return Rate(taken["tokens"] / taken["wall_s"], taken["tokens"] / taken["cpu_s"])


def _vllm_rate(program: Program, port: int, chats: int, *, first: int) -> Rate:
    with program.turn():
        began_s = program.cpu_s
        started = time.perf_counter()
        replies = _ask(port, CHAT, chats, first=first, key="", ignore_eos=True)
        wall_s = time.perf_counter() - started
        cpu_s = program.cpu_s - began_s
    tokens = _tokens(replies)
    return Rate(tokens / wall_s, tokens / cpu_s)


def _ask(port: int, path: str, chats: int, *, first: int, key: str, **more: object) -> list[Reply]:
    bodies = [json.dumps({**request_body(first + n), **more}).encode() for n in range(chats * TURNS[chats])]
    raw = [request("POST", path, body, key=key) for body in bodies]
    return asyncio.run(exchange_all(port, raw, clients=chats))


def _tokens(replies: list[Reply]) -> int:
    """Tokens of all answers; each came with its ids and log-probabilities."""
    total = 0
    for reply in replies:
        (choice,) = json.loads(reply.body)["choices"]
        sampled = len(choice["logprobs"]["content"])
        assert 1 <= sampled <= ANSWER
        total += sampled
    return total


def _vllm(model: Path, port: int) -> Program:
    python = os.environ.get("AGL_VLLM_PYTHON") or str(ROOT / ".nox" / "vllm" / "bin" / "python")
    if not Path(python).exists():
        raise Missing("vLLM is not installed here; run nox -s vllm once")
    arguments = ["--model", str(model), "--served-model-name", "policy", "--host", HOST, "--port", str(port)]
    more = ["--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    environment = {
        **ONE_THREAD,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [python, "-m", "vllm.entrypoints.openai.api_server", *arguments, *more]
    return Program(command, environment=environment, cores=SERVER_CORE)


def _wait_for_vllm(program: Program, port: int) -> None:
    until = time.monotonic() + _VLLM_START_S
    while True:
        try:
            wait_for_answer(program, port, "/health")
        except Missing:
            if program.process.poll() is not None or time.monotonic() > until:
                raise
        else:
            program.rest()
            return


def _ratio(
    cells: Mapping[int, Mapping[str, list[Rate]]], opponent: str, what: Callable[[Rate], float]
) -> float | None:
    """Our rate divided by an opponent's, the smallest over the cells."""

    def median(rates: list[Rate]) -> float:
        return statistics.median(map(what, rates))

    found: list[Any] = [median(of["ours"]) / median(of[opponent]) for of in cells.values() if opponent in of]
    return round(min(found), 3) if found else None
