"""Row `learner`: one policy-gradient update of a Llama with 3.4 million parameters, one thread, CPU time.

- `bare`, `trl`: 32 rows that share nothing (80 + 64 tokens), against PyTorch written by hand and TRL's GRPO update.
- `shared_prompt`: groups of eight answers to a prompt four times as long, against the cheaper of both.
- `rows`: ten turns with a growing prompt, against a row for each turn, by hand and without any padding.
- `chains`: rollouts of one task with sub-agents, against a row for each chain of calls, by hand and without padding.

Norms of gradients have to agree between all contenders of a cell to 1e-4.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from measurement import Row, Spread, interleaved
from opponents import Missing, Opponent
from workers import Worker

HERE: Final = Path(__file__).parent
TRL: Final = Opponent(
    "trl", "trl==1.16.0", ("3.11", "3.12", "3.13"), beside=("torch==2.13.0", "transformers")
)
AGREEMENT: Final = 1e-4

Samples = dict[str, list[dict[str, Any]]]


def measure(*, rounds: int = 5) -> Row:
    """Measures all cells; without TRL, if it cannot run here."""
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(_worker("contender_learner.py"))
        bare = stack.enter_context(_worker("floor_learner.py"))
        contenders = {
            "equal_shapes": {"ours": (ours, "forest"), "bare": (bare, "rows")},
            "shared_prompt": {"ours": (ours, "forest"), "ours, rows": (ours, "rows"), "bare": (bare, "rows")},
            "growing": {
                "ours": (ours, "forest"),
                "ours, rows": (ours, "rows"),
                "bare": (bare, "rows"),
                "bare, merged": (bare, "merged"),
            },
            "branching": {
                "ours": (ours, "forest"),
                "ours, rows": (ours, "rows"),
                "bare, merged": (bare, "merged"),
            },
        }
        try:
            trl = stack.enter_context(_worker("opponent_trl_learner.py", python=str(TRL.bin / "python")))
        except Missing as error:
            missing["trl"] = str(error)
        else:
            for work in ("equal_shapes", "shared_prompt"):
                contenders[work]["trl"] = (trl, "rows")
        cells = {work: _cell(work, of, rounds=rounds) for work, of in contenders.items()}
    of_shared = [
        _ratio(cells["shared_prompt"], name) for name in ("bare", "trl") if name in cells["shared_prompt"]
    ]
    ratios = {
        "bare": _ratio(cells["equal_shapes"], "bare"),
        "shared_prompt": min(of_shared),
        "rows": _ratio(cells["growing"], "bare"),
        "chains": _ratio(cells["branching"], "bare, merged"),
    }
    if "trl" in cells["equal_shapes"]:
        ratios["trl"] = _ratio(cells["equal_shapes"], "trl")
    return Row(
        ratios=ratios,
        detail={
            "rounds": rounds,
            "unit": "CPU seconds of one update",
            "missing": missing,
            "merged floor / ours, growing": round(_ratio(cells["growing"], "bare, merged"), 3),
            **{
                work: {name: asdict(Spread.of([one["cpu_s"] for one in found])) for name, found in of.items()}
                for work, of in cells.items()
            },
            "most memory, MiB": {
                name: round(max(one["peak_bytes"] for one in found) / 2**20)
                for name, found in cells["equal_shapes"].items()
            },
        },
    )


def _worker(program: str, *, python: str = sys.executable) -> Worker:
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    return Worker([python, str(HERE / program)], environment=environment).wait_ready()


def _cell(work: str, of: dict[str, tuple[Worker, str]], *, rounds: int) -> Samples:
    measured = interleaved(
        {name: partial(worker.ask, cell, work=work) for name, (worker, cell) in of.items()}, rounds=rounds
    )
    norms = {name: found[0]["grad_norm"] for name, found in measured.items()}
    low, high = min(norms.values()), max(norms.values())
    if not high - low <= AGREEMENT * high:
        raise AssertionError(f"gradients of {work} differ: {norms}")
    return measured


def _ratio(cell: Samples, opponent: str) -> float:
    """An opponent's cost divided by ours."""
    cost = {name: statistics.median(one["cpu_s"] for one in cell[name]) for name in (opponent, "ours")}
    return cost[opponent] / cost["ours"]
