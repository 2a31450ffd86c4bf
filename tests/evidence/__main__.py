"""Shows that it learns: `python tests/evidence [NAME …] [--seeds N] [--jobs N] [--folder DIR] [--out DIR]`.

Plays every arm of every experiment for every seed, each in a process of its own, and keeps each run's curve in
`--folder`, so that a second call goes on where the first was interrupted. Then writes, for each experiment, the curves
(JSON and SVG) and what they come to into `--out`.
"""

# ruff: noqa: T201 - what a program prints is its result
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import arithmetic
import rooms
from curves import plain
from summary import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from curves import Curve

HERE = Path(__file__).parent
OUT = HERE.parent.parent / "docs" / "explanation" / "evidence"


class Titled(Protocol):
    """What every arm has."""

    @property
    def title(self) -> str:
        """As figures name it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question, and the arms that answer it.

    Attributes:
        run: Plays one arm: `run(arm, seed=, updates=, models=, folder=)`.
        against: What figures draw success against: `rollouts` or `wall_s`.
        goal: Success that summaries say how long it took to reach.
    """

    title: str
    arms: Mapping[str, Titled]
    run: Callable[..., Curve]
    updates: int
    seeds: int
    against: str = "rollouts"
    goal: float = 0.9


EXPERIMENTS: Mapping[str, Experiment] = {
    "calculator": Experiment(
        title="A calculator agent", arms=arithmetic.CALCULATOR, run=arithmetic.run, updates=64, seeds=10
    ),
    "credit": Experiment(
        title="Credit for a delayed reward", arms=rooms.ARMS, run=rooms.run, updates=40, seeds=10
    ),
    "forest": Experiment(
        title="Token forest, and a row for each call",
        arms=arithmetic.FOREST,
        run=arithmetic.run,
        updates=16,
        seeds=3,
        goal=0.7,
    ),
    "asynchronous": Experiment(
        title="Rollouts beside the learner",
        arms=arithmetic.ASYNCHRONOUS,
        run=arithmetic.run,
        updates=24,
        seeds=4,
        against="wall_s",
        goal=0.8,
    ),
}


def main() -> int:
    """Plays what is missing and writes what all of it came to. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tests/evidence", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=0, help="of each experiment; 0 is as many as it states")
    parser.add_argument("--updates", type=int, default=0, help="of each run; 0 is as many as it states")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--folder", type=Path, default=Path(".evidence"), help="for models and curves")
    parser.add_argument("--out", type=Path, default=OUT, help="for figures and summaries")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, arm, seed = options.one
        play(
            EXPERIMENTS[name],
            arm,
            seed=int(seed),
            updates=options.updates,
            kept=kept(options.folder, name, arm, int(seed)),
        )
        return 0
    if unknown := sorted(set(options.names) - EXPERIMENTS.keys()):
        parser.error(f"no experiment is called {', '.join(unknown)}; there are: {', '.join(EXPERIMENTS)}")
    names = options.names or list(EXPERIMENTS)
    wanted = [
        (name, arm, seed)
        for name in names
        for seed in range(options.seeds or EXPERIMENTS[name].seeds)
        for arm in EXPERIMENTS[name].arms
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        played = list(pool.map(lambda one: play_apart(*one, options), wanted))
    for name in names:
        experiment = EXPERIMENTS[name]
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in experiment.arms}
        for of, arm, seed in wanted:
            if of == name and (path := kept(options.folder, name, arm, seed)).exists():
                runs[arm].append({"seed": seed, **json.loads(path.read_text())})
        print(write(name, experiment, {arm: those for arm, those in runs.items() if those}, out=options.out))
    return 0 if all(played) else 1


def write(name: str, experiment: Experiment, runs: Mapping[str, list[dict[str, Any]]], *, out: Path) -> str:
    """Writes `NAME.json`, `NAME.svg` and `NAME.md`. Returns the table."""
    from figure import draw  # imported here because runs need no matplotlib

    out.mkdir(parents=True, exist_ok=True)
    arms = [
        f"{json.dumps(arm)}: [\n" + ",\n".join(map(json.dumps, those)) + "\n]" for arm, those in runs.items()
    ]
    (out / f"{name}.json").write_text("{\n" + ",\n".join(arms) + "\n}\n")
    draw(out / f"{name}.svg", experiment, runs)
    found = table(experiment, runs)
    (out / f"{name}.md").write_text(found)
    return found


def play_apart(name: str, arm: str, seed: int, options: argparse.Namespace) -> bool:
    """One run in a process of its own, unless it was played before. Returns whether there is a curve."""
    path = kept(options.folder, name, arm, seed)
    if path.exists():
        return True
    more = ["--folder", str(options.folder), "--updates", str(options.updates)]
    done = subprocess.run(
        [sys.executable, str(HERE), *more, "--one", name, arm, str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"error: {name}, {arm}, seed {seed}:\n{done.stderr[-2000:]}", file=sys.stderr)
    else:
        print(f"{name}, {arm}, seed {seed}: {done.stdout.strip()}", flush=True)
    return not done.returncode


def play(experiment: Experiment, arm: str, *, seed: int, updates: int, kept: Path) -> None:
    """One run, in this process."""
    models = kept.parent.parent / "models"
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        curve = experiment.run(
            experiment.arms[arm],
            seed=seed,
            updates=updates or experiment.updates,
            models=models,
            folder=Path(folder),
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(plain(curve)))
    part.rename(kept)
    print(
        f"success {curve.success[0]:.2f} -> {curve.success[-1]:.2f} in {curve.cpu_s[-1]:.0f} s of processor"
    )


def kept(folder: Path, name: str, arm: str, seed: int) -> Path:
    """Where a run's curve is."""
    return folder.resolve() / "curves" / f"{name}-{arm}-{seed}.json"


if __name__ == "__main__":
    sys.exit(main())
