"""Trains one tiny agent of each framework for real: `python tests/matrix [NAME …] [--seed N] [--json]`.

A model of some ten thousand weights first learns from demonstrations to answer a question with one of two words, each
as often; LightningRL then has to make it prefer the rewarded one. Agents are called through their framework, and
know nothing of training. The reward must rise; the first for which it does not ends the program with an error.
"""

# ruff: noqa: T201 - what a program prints is its result
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import string
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import Trainer
from agentlightning.gateway import Sampling
from agentlightning.types import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.types import Json

AGENTS = Path(__file__).parent / "agents"
ADAPTERS = Path(__file__).parent.parent.parent / "adapters"
TASK = "Which way do you go, left or right?"
SYSTEM = "You answer with one word."
REWARDED = "right"
FILLER = string.ascii_letters + string.digits + string.punctuation + " " * 20
UPDATES = 12
LEAST_RISE = 0.25
"""Between the first and the last update; by chance a reward of two equally likely words rises by some hundredths."""

ENVIRONMENT = {
    "OPENAI_API_KEY": "unused",
    "ANTHROPIC_API_KEY": "unused",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
}
"""Frameworks want keys when they make clients, and some report home."""


def grade(task: Json, output: Json) -> float:
    """1 for the rewarded word; frameworks that return a whole conversation repeat the question in it."""
    return float(REWARDED in json.dumps(output).replace(str(task), ""))


def demonstrations() -> Iterator[dict[str, Json]]:
    """Conversations that end in either word as often, whatever a framework writes around its prompt."""
    generator = random.Random(0)
    for _ in range(128):
        before, after = ("".join(generator.choices(FILLER, k=generator.randrange(200))) for _ in range(2))
        system = {"role": "system", "content": generator.choice([SYSTEM, before])}
        turns: list[Json] = [system] if generator.random() < 0.7 else []
        turns.append({"role": "user", "content": generator.choice([TASK, f"{before}{TASK}{after}"])})
        for word in ("left", REWARDED):
            yield {"messages": [*turns, {"role": "assistant", "content": word}]}


def train(agent: Path, *, seed: int, directory: Path) -> list[float]:
    """Rewards of the updates of one training."""
    path = directory / "demonstrations.jsonl"
    path.write_text("\n".join(map(json.dumps, demonstrations())))
    warm_start: dict[str, Json] = {
        "demonstrations": str(path),
        "steps": 60,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "schedule": "linear",
    }
    reinforcement: dict[str, Json] = {
        "updates": UPDATES,
        "tasks_per_update": 1,
        "group_size": 16,
        "learning_rate": 3e-3,
    }
    build: dict[str, Json] = {
        "corpus": str(path),
        "layers": 1,
        "width": 32,
        "heads": 2,
        "context": 2_048,
        "init_std": 0.08,
    }
    result = Trainer(
        f"{agent}:agent",
        algorithm=[("sft", warm_start), ("lightningrl", reinforcement)],
        train=[TASK],
        store=f"sqlite:///{directory / 'runs.db'}",
        engine="torch",
        engine_params={"build": build},
        graders=[grade],
        sampling={Mode.TRAIN: Sampling(temperature=1.0, max_tokens=4)},
        seed=seed,
    ).fit()
    return [point.value for point in result.history if point.name == "reward"]


def available() -> dict[str, Path]:
    """The agents whose framework is installed."""
    found = {path.stem.removesuffix("_agent"): path for path in sorted(AGENTS.glob("*_agent.py"))}
    return {name: path for name, path in found.items() if _installed(name)}


def _installed(name: str) -> bool:
    manifest = ADAPTERS / name / "pyproject.toml"
    if not manifest.exists():
        return False
    distribution = str(tomllib.loads(manifest.read_text())["project"]["name"])
    return importlib.util.find_spec(distribution.replace("-", "_")) is not None


def main() -> int:
    """Trains what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tests/matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    agents = available()
    names = options.names or list(agents)
    if unknown := sorted(set(names) - agents.keys()):
        parser.error(f"no agent for {', '.join(unknown)} can be trained here; there are: {', '.join(agents)}")
    os.environ.update(ENVIRONMENT)
    rows = []
    for name in names:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rewards = train(agents[name], seed=options.seed, directory=Path(folder))
        seconds = time.monotonic() - started
        rows.append({"adapter": name, "first": rewards[0], "last": rewards[-1], "seconds": round(seconds, 1)})
        if not options.as_json:
            print(f"{name:>16}: reward {rewards[0]:.2f} -> {rewards[-1]:.2f} in {seconds:.0f} s")
    if options.as_json:
        print(json.dumps(rows))
    failed = [
        str(row["adapter"]) for row in rows if float(str(row["last"])) - float(str(row["first"])) < LEAST_RISE
    ]
    if failed:
        print(f"error: the reward did not rise for {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
