"""Row `forest`: training data of rollouts with 2, 10, 50 and 200 turns, against Agent Lightning 0.3 and 1.0.

1.0 (`al10`) merges ready triplets into padded rows, ours merges ready transitions into a tree. 0.3 (`al03`) makes
triplets of spans and merges nothing, ours then begins with spans too; its ratio is the smallest of rollouts with 50
turns or more, because with fewer even the hand-written check of prefixes (`floor`) is not that much cheaper. What is
compared is CPU; tokens are counted in every cell. Beside that: agents that take turns in one rollout, and `linear`, the
cost of a new token in rollouts of 50 turns divided by that in rollouts of 200.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from measurement import Row, Spread, interleaved
from opponents import AL03, AL10, Missing
from turns import unique_tokens
from workers import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE: Final = Path(__file__).parent
ROLLOUTS: Final = {2: 64, 10: 64, 50: 16, 200: 4}
"""Rollouts of a cell, by turns."""
LONG: Final = 50
"""Turns from which on `al03` counts."""
INTERLEAVED: Final = 3
"""Agents that take turns."""


def measure(*, rounds: int = 7) -> Row:
    """Measures all cells; opponents that cannot run here are left out, with the reason."""
    missing: dict[str, str] = {}
    cells: dict[int, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(Worker([sys.executable, str(HERE / "contender_forest.py")]).wait_ready())
        others = _others(stack, missing)
        for turns, rollouts in ROLLOUTS.items():
            work = {"turns": turns, "rollouts": rollouts}
            contenders = {
                "ours": partial(_cpu_ms, ours, "transitions", agents=1, **work),
                "ours, from spans": partial(_cpu_ms, ours, "spans", agents=1, **work),
                "ours, interleaved": partial(_cpu_ms, ours, "transitions", agents=INTERLEAVED, **work),
                "floor": partial(_cpu_ms, ours, "floor", agents=1, **work),
                **{name: partial(_cpu_ms, worker, cell, **work) for name, (worker, cell) in others.items()},
            }
            cells[turns] = interleaved(contenders, rounds=rounds)
    of_al03 = _ratios(cells, "al03", "ours, from spans")
    ratios = {
        "al10": min(_ratios(cells, "al10", "ours").values(), default=None),
        "al03": min(
            (ratio for turns, ratio in of_al03.items() if turns >= LONG),
            default=None,
        ),
        "linear": _linear(cells),
    }
    return Row(
        ratios={key: ratio for key, ratio in ratios.items() if ratio is not None},
        detail={
            "rounds": rounds,
            "unit": "CPU milliseconds of one rollout",
            "missing": missing,
            "al10 / ours, by turns": _ratios(cells, "al10", "ours"),
            "al03 / ours, by turns": of_al03,
            **{
                f"{turns} turns": {name: asdict(Spread.of(costs)) for name, costs in of.items()}
                for turns, of in cells.items()
            },
        },
    )


def _others(stack: ExitStack, missing: dict[str, str]) -> dict[str, tuple[Worker, str]]:
    """Opponents that can run here, each with the name of its cell."""
    found = {}
    for name, cell, start in (("al10", "rows", _al10), ("al03", "spans", _al03)):
        try:
            found[name] = (stack.enter_context(start().wait_ready()), cell)
        except Missing as error:
            missing[name] = str(error)
    return found


def _al03() -> Worker:
    command = [str(AL03.bin / "python"), str(HERE / "opponent_al03_forest.py")]
    return Worker(command, environment=AL03.environment)


def _al10() -> Worker:
    (folder,) = AL10.bin.parent.glob("lib/python*/site-packages/agentlightning")
    return Worker([sys.executable, str(HERE / "opponent_al10_forest.py"), str(folder)])


def _cpu_ms(worker: Worker, cell: str, **question: object) -> float:
    return float(worker.ask(cell, **question)["cpu_s"]) * 1e3


def _ratios(cells: Mapping[int, Mapping[str, list[float]]], opponent: str, ours: str) -> dict[int, float]:
    """An opponent's cost divided by ours, by turns."""
    return {
        turns: round(statistics.median(of[opponent]) / statistics.median(of[ours]), 2)
        for turns, of in cells.items()
        if opponent in of
    }


def _linear(cells: Mapping[int, Mapping[str, list[float]]]) -> float:
    few, many = (statistics.median(cells[turns]["ours"]) / unique_tokens(turns) for turns in (50, 200))
    return few / many
