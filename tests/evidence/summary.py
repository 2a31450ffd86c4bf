"""What the curves of an experiment come to, in a table."""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from agentlightning.statistics import bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOW = 4
"""Updates that success is averaged over before it is asked whether the goal was reached."""


def smooth(success: Sequence[float]) -> list[float]:
    """Mean over the last `WINDOW` updates, from the first that has so many."""
    return [fmean(success[end - WINDOW : end]) for end in range(WINDOW, len(success) + 1)]


def reached(run: Mapping[str, Any], goal: float, *, measure: str) -> float | None:
    """How much of a measure a run took until its smoothed success was at the goal; None if it never was."""
    for place, value in enumerate(smooth(run["success"]), WINDOW - 1):
        if value >= goal:
            return float(run[measure][place])
    return None


def interval(values: Sequence[float], form: str) -> str:
    """Mean with its 95 % bootstrap interval over seeds."""
    low, high = bootstrap_interval(values)
    return f"{fmean(values):{form}} [{low:{form}}, {high:{form}}]"


def table(experiment: Any, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A line for each arm, in Markdown."""
    goal = f"{experiment.goal:g}"
    head = [
        "arm",
        "seeds",
        f"rollouts to {goal}",
        f"processor s to {goal}",
        f"seconds to {goal}",
        "mean success",
        "last success",
        "held out",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, those in runs.items():
        cells = [experiment.arms[arm].title, str(len(those))]
        for measure in ("rollouts", "cpu_s", "wall_s"):
            taken = [reached(one, experiment.goal, measure=measure) for one in those]
            there = [value for value in taken if value is not None]
            missed = f", {len(taken) - len(there)} never" if len(there) < len(taken) else ""
            cells.append(
                f"{interval(there, ',.0f')}, median {median(there):,.0f}{missed}" if there else "never"
            )
        cells.append(interval([fmean(one["success"]) for one in those], ".3f"))
        cells.append(interval([fmean(one["success"][-WINDOW:]) for one in those], ".3f"))
        held_out = [one["held_out"] for one in those if one["held_out"] is not None]
        cells.append(interval(held_out, ".3f") if held_out else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
