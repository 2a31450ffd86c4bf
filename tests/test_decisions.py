"""Agents that learn what to decide, through the real trainer and store: examples, a kill, and tokens below."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

import agentlightning as agl
from agentlightning.store import open_store
from agentlightning.types import BUILTIN_KINDS, DecisionPolicy, Json, Mode, Run

pytest.importorskip("lightning_algorithm_lightningrl")

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    from agentlightning.types import MetricPoint

    Python = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLE = Path(__file__).parent.parent / "docs/examples/decisions/deciding.py"
_spec = importlib.util.spec_from_file_location("deciding", EXAMPLE)
assert _spec is not None
assert _spec.loader is not None
deciding = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(deciding)

KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
import deciding
import agentlightning as agl

calls = 0

def agent(task):
    global calls
    calls += 1
    if calls == int(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return deciding.take_branch(task)

params = {{"updates": 12, "tasks_per_update": 8, "checkpoint_every": 3, "promote_every": 4, "min_effective": 5.0}}
trainer = agl.Trainer(
    agent, algorithm="decisions", params=params, train=deciding.branch_tasks(24), store="sqlite:///" + sys.argv[1],
    seed=3, concurrency=8,
)
trainer.fit(resume=sys.argv[2] if len(sys.argv) > 2 else None)
"""


async def read(path: Path) -> tuple[Run, dict[tuple[str, int], float], DecisionPolicy | None]:
    """The only run of a store, its metrics as they were logged last, and the policy that is live."""
    async with open_store(f"sqlite:///{path}") as store:
        (run,) = await store.runs.list()
        metrics = newest(await store.runs.metrics(run.id))
        live = await store.resources.live()
        policy = live.resources["decisions"].load(BUILTIN_KINDS) if live else None
        assert policy is None or isinstance(policy, DecisionPolicy)
        return run, metrics, policy


def newest(points: Iterable[MetricPoint]) -> dict[tuple[str, int], float]:
    return {(point.name, point.step): point.value for point in points}


@pytest.mark.parametrize("name", ["tool", "branch"])
def test_an_agent_learns_what_to_decide_without_a_model(name: str, tmp_path: Path) -> None:
    agent, tasks = {
        "tool": (deciding.pick_tool, deciding.tool_tasks),
        "branch": (deciding.take_branch, deciding.branch_tasks),
    }[name]
    result = agl.Trainer(
        agent,
        algorithm="decisions",
        params={"updates": 20},
        train=tasks(96),
        val=tasks(60, start=1_000),
        store=f"sqlite:///{tmp_path / 'agl.db'}",
    ).fit()
    before, after = (result.summary[label] for label in ("before", "after"))
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert before["high"] < after["low"]
    assert after["mean"] > 0.8
    metrics = newest(result.history)
    assert metrics["decisions/ope/gain_low", 9] > 0
    assert result.best is not None
    assert result.best.resources["decisions"].kind == "decision_policy"


def test_a_killed_run_goes_on_to_the_same_policy_and_numbers(python: Python, tmp_path: Path) -> None:
    def run(*arguments: str, die_at: int = -1) -> int:
        environment = {"DIE_AT": str(die_at), "AGL_PLUGINS": "lightningrl"}
        return python("-c", KILLED, *arguments, **environment).returncode

    whole, broken = tmp_path / "whole.db", tmp_path / "broken.db"
    assert run(str(whole)) == 0
    # 32 rollouts an update: during update 7, after the checkpoint at 6 and the comparison at 4
    assert run(str(broken), die_at=7 * 32 + 9) == -signal.SIGKILL
    half, metrics, _ = asyncio.run(read(broken))
    assert max(step for _, step in metrics) == 6
    assert run(str(broken), half.id) == 0
    assert asyncio.run(read(broken))[1:] == asyncio.run(read(whole))[1:]


async def answer(task: Json) -> float:
    """Asks a model for more or less, and is paid for length."""
    from openai import AsyncOpenAI

    wish = agl.decide("wish", options=["short", "lengthy"])
    async with AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "unused")) as client:
        done = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Tell a story."}]
        )
    text = done.choices[0].message.content or ""
    return 0.5 * (wish == "lengthy") + 0.5 * min(1.0, len(text.encode()) / 16)


@pytest.mark.slow
def test_decisions_and_tokens_are_learned_from_the_same_rollouts(tmp_path: Path) -> None:
    for module in ("lightning_plugin_torch", "lightning_plugin_gateway", "lightning_adapter_openai"):
        pytest.importorskip(module)
    corpus = tmp_path / "corpus.jsonl"
    turns: list[Json] = [{"role": "user", "content": "Tell a story."}]
    words: list[Json] = [{"role": "assistant", "content": word} for word in ("short", "lengthy")]
    corpus.write_text("\n".join(json.dumps({"messages": [*turns, word]}) for word in words))
    tokens: dict[str, Json] = {"updates": 12, "tasks_per_update": 2, "group_size": 8, "learning_rate": 1e-2}
    decisions: dict[str, Json] = {
        "updates": 12,
        "promote_every": 6,
        "min_effective": 10.0,
        "holdout": 0.5,
        "learning_rate": 0.4,
    }
    result = agl.Trainer(
        answer,
        algorithm=agl.together(("lightningrl", tokens), ("decisions", decisions)),
        train=[0, 1, 2, 3],
        store=f"sqlite:///{tmp_path / 'agl.db'}",
        engine="torch",
        engine_params={"build": {"corpus": str(corpus), "layers": 1, "width": 32, "heads": 2}},
        sampling={Mode.TRAIN: agl.Sampling(temperature=1.0, max_tokens=6)},
    ).fit()
    metrics = newest(result.history)
    for name, rise in (("reward", 0.08), ("decisions/propensity", 0.15)):
        first, last = ([metrics[name, step] for step in steps] for steps in (range(3), range(9, 12)))
        assert fmean(last) > fmean(first) + rise
    assert metrics["grad_norm", 0] > 0
    assert metrics["version", 11] == 11
    assert metrics["masked_share", 11] == 0
    assert metrics["decisions/ope/promoted", 11] or metrics["decisions/ope/promoted", 5]
