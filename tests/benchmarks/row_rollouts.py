"""Row `rollouts`: rollouts of an agent that does nothing, end to end, against Agent Lightning 0.3 (`al03`).

Runners are rollouts at once. In process, ours has its store in memory as theirs has; over HTTP, ours is durable and its
runners are one process, theirs are one process each. Theirs asks for work every 50 ms here; as it comes, it does so
every 5 s, which is what the wake-up of an idle runner is measured with.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from measurement import Row, Spread, interleaved
from opponents import AL03, Missing
from workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE: Final = Path(__file__).parent
RUNNERS: Final = (1, 4, 16)
COUNT: Final = 200
POLL_S: Final = 0.05
DEFAULT_POLL_S: Final = 5.0
OF_THREADS: Final = (
    "in process, al03 has 1 runner in every cell: with more, its threads lose rollouts to failures"
)


def measure(*, rounds: int = 5) -> Row:
    """Measures all cells; an opponent that cannot run here is left out, with the reason."""
    detail: dict[str, object] = {"rounds": rounds}
    ratios: list[float] = []
    with Worker([sys.executable, str(HERE / "contender_rollouts.py")]).wait_ready() as ours:
        for runners in RUNNERS:
            seconds = partial(_seconds, ours, runners=runners)
            mine = {"ours": partial(seconds, "memory"), "ours, SQLite": partial(seconds, "sqlite")}
            cell = _against(mine, rounds=rounds, detail=detail, runners=1, strategy="shm")
            ratios += _noted(detail, f"in process, {runners} runners", cell)
        for runners in RUNNERS:
            mine = {"ours": partial(_seconds, ours, "http", runners=runners)}
            cell = _against(mine, rounds=rounds, detail=detail, runners=runners, strategy="cs")
            ratios += _noted(detail, f"over HTTP, {runners} runners", cell)
        for where, strategy in (("memory", "shm"), ("http", "cs")):
            mine = {"ours": partial(_seconds, ours, where, runners=1, count=1, idle_s=DEFAULT_POLL_S - 0.5)}
            cell = _against(
                mine,
                rounds=rounds,
                detail=detail,
                runners=1,
                strategy=strategy,
                poll_s=DEFAULT_POLL_S,
                count=1,
            )
            ratios += _noted(detail, f"wake-up, {where}", cell, count=1)
    return Row(ratios={"al03": min(ratios)} if ratios else {}, detail=detail)


def _against(
    contenders: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    detail: dict[str, object],
    runners: int,
    strategy: str,
    poll_s: float = POLL_S,
    count: int = COUNT,
) -> dict[str, list[float]]:
    """Seconds by contender, with the opponent's where it can run."""
    idle_s = DEFAULT_POLL_S - 0.5 if count == 1 else 0.0
    try:
        script = str(HERE / "opponent_al03_rollouts.py")
        command = [str(AL03.bin / "python"), script, str(runners), strategy, str(poll_s)]
        with Worker(command, environment=AL03.environment).wait_ready() as al03:
            theirs = partial(_asked, al03, count=count, idle_s=idle_s)
            return interleaved({**contenders, "al03": theirs}, rounds=rounds)
    except Missing as error:
        detail["missing"] = f"al03: {error}"
        return interleaved(contenders, rounds=rounds)


def _seconds(worker: Worker, where: str, *, runners: int, count: int = COUNT, idle_s: float = 0.0) -> float:
    return _asked(worker, where=where, runners=runners, count=count, idle_s=idle_s)


def _asked(worker: Worker, **question: object) -> float:
    return float(worker.ask("rollouts", **question)["wall_s"])


def _noted(
    detail: dict[str, object], name: str, cell: Mapping[str, list[float]], *, count: int = COUNT
) -> list[float]:
    """Writes a cell down; its ratio, if the opponent was there."""
    figures: dict[str, object] = {}
    for contender, seconds in cell.items():
        if count == 1:
            figures[f"{contender}, ms"] = asdict(Spread.of([one * 1e3 for one in seconds], digits=1))
        else:
            figures[f"{contender}, rollouts/s"] = asdict(
                Spread.of([count / one for one in seconds], digits=0)
            )
    detail[name] = figures
    if "al03" not in cell:
        return []
    ratio = statistics.median(cell["al03"]) / statistics.median(cell["ours"])
    figures["al03 / ours"] = round(ratio, 2)
    if name.startswith("in process"):
        detail["note"] = OF_THREADS
    return [ratio]
