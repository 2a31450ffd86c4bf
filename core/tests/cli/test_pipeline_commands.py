"""Pipelines from configuration and plugins, and `agl pipeline`: a real store, and a stage package of somebody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from core.tests.cli.conftest import Done
    from core.tests.conftest import Site

    Agl = Callable[..., Done]

ALGORITHM = """
from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec

@hookimpl
def agl_register_algorithms():
    return [AlgorithmSpec(name="look", target="dist_look_hooks:Look", summary="looks at experience")]

class Look:
    name = "look"

    def __init__(self, params):
        pass

    async def fit(self, context):
        for step in range(2):
            rollouts = await context.rollouts(context.train, samples=2, step=step)
            await context.experience(rollouts, step=step)
"""
STAGES = '''
"""A stage package as its author writes it."""

from dataclasses import replace

import msgspec

from agentlightning.config import decode_params
from agentlightning.plugins import hookimpl
from agentlightning.specs import StageSpec
from agentlightning.types import Drop, Remark


class OddsParams(msgspec.Struct, frozen=True):
    least: float = 0.0


class Odds:
    """Leaves out what earned too little."""

    name = "odds"

    def __init__(self, params):
        self.params = decode_params(params, OddsParams, where="stage 'odds'")

    def __call__(self, experience):
        kept = tuple(one for one in experience.trajectories if one.outcome >= self.params.least)
        gone = [one for one in experience.trajectories if one not in kept]
        drops = tuple(Drop(id=one.attempt.id, reason="earned too little") for one in gone)
        remarks = tuple(Remark(id=one.attempt.id, reason="earned enough") for one in kept)
        return replace(experience, trajectories=kept, drops=drops, remarks=remarks)


class Quiet:
    """A stage that is put in by the hook."""

    name = "quiet"

    def __call__(self, experience):
        return experience


@hookimpl
def agl_register_stages():
    return [StageSpec(name="odds", target="dist_odds_hooks:Odds", summary="odd ones out", order=420)]


@hookimpl
def agl_configure_pipeline(pipeline, algorithm):
    if algorithm == "look" and "order" in pipeline.names:
        return pipeline.insert(Quiet(), after="order")
'''
AGENT = """
def solve(task):
    return float(task["x"])
"""
TRAIN = ("train", "agent.py:solve", "--algorithm", "look", "--train", "train.jsonl", "--json")


@pytest.fixture
def project(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an agent and tasks, and the packages of an algorithm and of a stage installed."""
    site.install("look", ALGORITHM)
    site.install("odds", STAGES)
    monkeypatch.setenv("AGL_PLUGINS", "core,look,odds")
    (folder / "agent.py").write_text(AGENT)
    (folder / "train.jsonl").write_text('{"x": 0}\n{"x": 1}\n')
    return folder


def stages(agl: Agl, *arguments: str) -> list[dict[str, dict[str, int]]]:
    (first, *_) = agl("pipeline", "show", *arguments, "--json").json["steps"]
    return first["stages"]


def names(agl: Agl) -> list[str]:
    return [str(stage["stage"]) for stage in stages(agl)]


def test_a_stage_of_another_package_is_listed_in_its_place(agl: Agl, project: Path) -> None:
    listed = agl("pipeline", "list", "--json").json
    found = [stage["name"] for stage in listed]
    assert found.index("rewards") < found.index("odds") < found.index("validate")
    text = agl("pipeline", "list").out
    assert "odd ones out" in text
    assert "which decisions are trained" in text


def test_a_stage_joins_the_default_pipeline_when_it_is_configured(agl: Agl, project: Path) -> None:
    assert agl(*TRAIN).code == 0
    assert "odds" not in names(agl)
    assert agl(*TRAIN, "--set", "pipeline.params.odds.least=0.5").code == 0
    found = names(agl)
    assert found.index("rewards") < found.index("odds") < found.index("validate")
    assert found[found.index("order") + 1] == "quiet"


def test_stages_are_chosen_and_reordered_in_the_file(agl: Agl, project: Path) -> None:
    order = ["order", "transitions", "select", "rewards", "odds", "credit"]
    (project / "agl.toml").write_text(
        f"[pipeline]\nstages = {order!r}\n[pipeline.params.credit]\nmode = 'discounted'\ndiscount = 0.5\n"
    )
    assert agl(*TRAIN).code == 0
    assert names(agl) == ["order", "quiet", *order[1:]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pipeline.params.odds.laest=1", "stage 'odds' has no setting 'laest'; did you mean 'least'?"),
        ("pipeline.params.odss.least=1", "stage 'odss' has parameters but is not in the pipeline"),
        ("pipeline.stages=['order', 'transition']", "no stage 'transition'; did you mean 'transitions'?"),
    ],
)
def test_what_is_mistyped_is_refused_before_anything_starts(
    setting: str, message: str, agl: Agl, project: Path
) -> None:
    done = agl(*TRAIN, "--set", setting)
    assert done.code == 2
    assert message in done.out + done.err


def test_counts_and_reasons_of_every_stage_are_shown(agl: Agl, project: Path) -> None:
    run = agl(*TRAIN, "--set", "pipeline.params.odds.least=0.5").json["run_id"]
    text = agl("pipeline", "show", run[:9]).out
    lines = text.splitlines()
    assert lines[0] == f"run {run}, 2 steps summed up"
    captured, odds = (
        next(line.split() for line in lines if line.startswith(f"{name} ")) for name in ("captured", "odds")
    )
    header = next(line.split() for line in lines if line.startswith("stage "))
    assert header[:4] == ["stage", "episodes", "spans", "trajectories"]
    assert (captured[1], odds[3], odds[-1]) == ("8", "4", "4")
    why = next(line for line in lines if "earned too little" in line)
    assert why.split()[:2] == ["odds", "4"]
    assert why.count("-") >= 3
    assert any("earned enough" in line for line in lines)

    only = agl("pipeline", "show", run, "--step", "1").out
    assert only.splitlines()[0] == f"run {run}, step 1"
    report = next(stage for stage in stages(agl, "--step", "0") if stage["stage"] == "odds")
    assert report["dropped"] == {"earned too little": 2}
    assert report["remarks"] == {"earned enough": 2}
    assert len(report["ids"]["earned too little"]) == 2


def test_a_step_that_is_not_there_and_a_run_without_experience_are_said_so(agl: Agl, project: Path) -> None:
    agl(*TRAIN)
    done = agl("pipeline", "show", "--step", "7")
    assert (done.code, "no pipeline report of step 7" in done.err) == (1, True)
    agl("eval", "agent.py:solve", "--data", "train.jsonl")
    assert "has made no experience yet" in agl("pipeline", "show").err
    assert "it is an evaluation; name a run of training" in agl("pipeline", "show").err


def test_without_a_subcommand_the_stages_are_listed(agl: Agl, project: Path) -> None:
    assert agl("pipeline").out == agl("pipeline", "list").out
    assert agl("pipeline", "--json").json == agl("pipeline", "list", "--json").json


def test_a_run_tells_what_happened_and_leaves_its_stages_to_the_pipeline(agl: Agl, project: Path) -> None:
    run = agl(*TRAIN).json["run_id"]
    events = agl("runs", "show", "--json").json["events"]
    assert [event["kind"] for event in events].count("pipeline") == 2
    text = agl("runs", "show").out
    assert "pipeline  " not in text
    assert f"agl pipeline show {run}" in text
