"""The curves of an experiment as a figure."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from summary import WINDOW, smooth

from agentlightning.statistics import bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LABELS = {"rollouts": "rollouts", "wall_s": "seconds"}


def draw(path: Path, experiment: Any, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Mean success over seeds with its 95 % interval, smoothed."""
    mpl.rcParams["svg.hashsalt"] = "evidence"  # the same curves give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text, not outlines of letters
    figure, axes = plt.subplots(figsize=(7, 4))
    for arm, those in runs.items():
        updates = min(len(one["success"]) for one in those)
        curves = list(zip(*(smooth(one["success"][:updates]) for one in those), strict=True))
        places = [
            fmean(one[experiment.against][place] for one in those) for place in range(WINDOW - 1, updates)
        ]
        bounds = [bootstrap_interval(values) for values in curves]
        (line,) = axes.plot(places, [fmean(values) for values in curves], label=experiment.arms[arm].title)
        axes.fill_between(
            places,
            [low for low, _ in bounds],
            [high for _, high in bounds],
            alpha=0.2,
            color=line.get_color(),
            linewidth=0,
        )
    axes.set_xlabel(LABELS[experiment.against])
    axes.set_ylabel("success")
    axes.set_title(experiment.title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
