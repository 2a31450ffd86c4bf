"""`agl` from the first training to the last look at it, with a real store and a real algorithm of a plugin."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentlightning.store import open_store
from agentlightning.types import Weights

if TYPE_CHECKING:
    from core.tests.cli.conftest import Done
    from core.tests.conftest import Site

    Agl = Callable[..., Done]

TRAIN = ("train", "agent.py:solve", "--algorithm", "look", "--train", "train.jsonl", "--val", "val.jsonl")


def test_training_leaves_a_run_and_rollouts_to_look_at(agl: Agl, project: Path) -> None:
    done = agl(*TRAIN, "--seed", "5", "--json")
    assert done.code == 0, done.err
    result = done.json
    assert result["status"] == "succeeded"
    assert result["summary"]["after"]["mean"] == 0.75
    assert "run " in done.err

    (run,) = agl("runs", "--json").json
    assert (run["id"], run["seed"], run["status"]) == (result["run_id"], 5, "succeeded")
    listed = agl("runs", "list").out
    assert "before 0.75 → after 0.75" in listed
    shown = agl("runs", "show", run["id"][:8]).out
    assert "0.750 [" in shown
    assert "reward" in shown
    detail = agl("runs", "show", "--json").json
    assert detail["models"] == {}
    assert [point["value"] for point in detail["metrics"] if point["name"] == "reward"] == [0.5, 0.6]

    rollouts = agl("rollouts", "list", "--run", run["id"], "--mode", "train", "--limit", "50", "--json").json
    assert len(rollouts) == 8
    assert agl("rollouts", "list", "--status", "failed").out == "no rollouts here\n"
    assert "succeeded" in agl("rollouts").out
    first = rollouts[0]["rollout"]["id"]
    tree = agl("rollouts", "show", first).out
    assert "thinking about" in tree
    assert "reward 0.25  by agent  because" in tree
    spans = agl("rollouts", "show", first, "--json").json["spans"]
    assert [span["sequence"] for span in spans] == list(range(1, len(spans) + 1))


def test_evaluation_shows_the_interval_and_where_to_look(agl: Agl, project: Path) -> None:
    done = agl("eval", "agent.py:solve", "--data", "val.jsonl", "--quiet")
    assert done.code == 0, done.err
    assert "mean 0.750  [" in done.out
    assert "on 4 of 4 tasks" in done.out
    assert done.err == ""


def test_evaluation_needs_no_algorithm(agl: Agl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_PLUGINS", "core")
    assert agl("eval", "agent.py:solve", "--data", "val.jsonl").code == 0


def test_tasks_without_an_outcome_make_an_evaluation_partial(agl: Agl, project: Path) -> None:
    (project / "val.jsonl").write_text('{"x": 13}\n{"x": 2}\n')
    done = agl("eval", "agent.py:solve", "--data", "val.jsonl")
    assert done.code == 3
    assert "no outcome: agent_error 1" in done.out
    (project / "val.jsonl").write_text('{"x": 13}\n')
    assert agl("eval", "agent.py:solve", "--data", "val.jsonl", "--json").code == 1


def test_what_an_agent_prints_is_not_between_the_json(agl: Agl, project: Path) -> None:
    (project / "loud.py").write_text("def solve(task):\n    print('hello')\n    return 1.0\n")
    for arguments in (
        ("eval", "loud.py:solve", "--data", "val.jsonl"),
        ("train", "loud.py:solve", *TRAIN[2:]),
        ("run", "loud.py:solve", "{}"),
        ("work", "loud.py:solve", "--until-idle", "0.1", "--store", "sqlite:///agl.db"),
    ):
        done = agl(*arguments, "--json")
        assert done.code == 0, done.err
        assert isinstance(json.loads(done.out), dict), arguments
    assert "hello" in agl("run", "loud.py:solve", "{}").out


def test_an_evaluation_that_failed_names_the_first_cause(agl: Agl, project: Path) -> None:
    (project / "bad.jsonl").write_text('{"x": 2}\n{"x": 13}\n')
    done = agl("eval", "agent.py:solve", "--data", "bad.jsonl")
    assert "the first: RuntimeError: unlucky" in done.out
    failed = next(one for one in agl("rollouts", "--json").json if one["rollout"]["status"] == "failed")
    assert f"agl rollouts show {failed['rollout']['id']}" in done.out

    (project / "silent.py").write_text("def solve(task):\n    return None\n")
    assert "name a --grader" in agl("eval", "silent.py:solve", "--data", "val.jsonl").out
    assert "evaluation n/a" in agl("runs", "list").out


def test_a_run_says_where_its_trained_model_is(agl: Agl, project: Path) -> None:
    run = agl(*TRAIN, "--json").json["run_id"]

    async def publish() -> None:
        async with open_store("sqlite:///agl.db") as store:
            await store.resources.publish({"policy": Weights(path="/trained/7", version=7)}, run_id=run)

    asyncio.run(publish())
    assert agl("runs", "show", run, "--json").json["models"] == {"policy": "/trained/7"}
    assert re.search(r"model policy +/trained/7", agl("runs", "show").out)


def test_an_archive_that_does_not_fit_is_said_in_one_line(
    agl: Agl, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agl(*TRAIN).code == 0

    async def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agentlightning.archive.export_store", full)
    done = agl("export", "--to", "out")
    assert (done.code, done.err) == (
        1,
        "error: the archive 'out' cannot be written: No space left on device; nothing of it is left there\n",
    )


def test_one_rollout_is_shown_as_a_tree(agl: Agl, project: Path) -> None:
    done = agl("run", "agent.py:solve", '{"x": 2}')
    assert done.code == 0, done.err
    assert "thinking about 2" in done.out
    assert "output: 1.0" in done.out
    done = agl("run", "agent.py:solve", '{"x": 13}', "--json")
    assert done.code == 1
    assert done.json["rollout"]["failure"]["message"] == "RuntimeError: unlucky"


def test_a_command_line_is_an_agent_without_a_file(agl: Agl, project: Path) -> None:
    done = agl("run", "--command", "echo 'said:' {task.x}", '{"x": 2}')
    assert done.code == 0, done.err
    assert "output: said: 2" in done.out
    (project / "agl.toml").write_text('[agent]\ncommand = "echo from the file {task}"\n')
    assert "output: from the file 3" in agl("run", "3").out
    assert agl("run", "agent.py:solve", "two", "words").code == 2
    assert "leave one out" in agl("run", "--command", "echo", "agent.py:solve", "1").err
    (project / "agl.toml").unlink()
    assert "there is no agent to work with" in agl("run", "1").err


def test_compositions_are_named_on_the_command_line(agl: Agl, project: Path) -> None:
    arguments = ("train", "agent.py:solve", "--train", "train.jsonl", "--val", "val.jsonl", "--json")
    result = agl(
        *arguments, "--algorithm", "together(look, look(steps=2))", "--set", "algorithms.look.steps=1"
    )
    assert result.code == 0, result.err
    run = agl("runs", "--json").json[0]
    assert (run["algorithm"], run["checkpoint"]["step"]) == ("look+look", 2)
    assert agl(*arguments, "--algorithm", "together(look, lok)").code == 2
    broken = ("train", "agent.py:solve", "--train", "train.jsonl", "--algorithm", "together(look, look)")
    assert "(raised by 'look', a part of the composition)" in agl(*broken).err
    assert "raised by 'look'" in agl("runs", "--json").json[0]["error"]


def test_settings_come_from_the_file_and_the_target_too(agl: Agl, project: Path) -> None:
    (project / "agl.toml").write_text(
        'target = "agent.py:solve"\nalgorithm = "look"\ntrain = "train.jsonl"\nval = "val.jsonl"\n'
        'store = "sqlite:///elsewhere.db"\n[algorithms.look]\nsteps = 1\n'
    )
    result = agl("train", "--json").json
    assert result["store"].endswith("elsewhere.db")
    assert agl("runs", "--json").json[0]["checkpoint"]["step"] == 1


def test_a_budget_that_runs_out_is_a_partial_run(agl: Agl, project: Path) -> None:
    done = agl(*TRAIN, "--budget-rollouts", "5", "--quiet")
    assert done.code == 3
    assert "the budget allows 5" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "agent.py:solve", "1", "--store", "memory://"], 2, "leave --store out"),
        (["runs", "show", "nope"], 1, "nope"),
        (["runs", "resume", "train-"], 2, "is succeeded; only interrupted and stopped runs can be resumed"),
        (["runs", "stop", "train-"], 2, "is succeeded; only a running run can be stopped"),
        (["rollouts", "show", "nope"], 1, "there is no rollout 'nope'"),
        (["rollouts", "show", "--attempt", "9"], 1, "there is no attempt 9"),
        (["train", "agent.py:missing", "--train", "train.jsonl", "--algorithm", "look"], 2, "has no 'missing'"),
        (["train", "agent.py:solve", "--train", "train.jsonl", "--algorithm", "loook"], 2, "did you mean 'look'"),
        (["train", "agent.py:solve", "--train", "train.jsonl", "--engine", "verl", "--algorithm", "look"], 2,
         "pip install lightning-plugin-verl"),
        (["train", "agent.py:solve", "--train", "train.jsonl", "--observer", "progres", "--algorithm", "look"], 2,
         "did you mean 'progress'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(
    agl: Agl, project: Path, arguments: list[str], code: int, message: str
) -> None:
    assert agl(*TRAIN, "--set", "algorithms.look.steps=0", "--quiet").code == 0
    done = agl(*arguments, *(["--quiet"] if arguments[0] == "train" else []))
    assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
    assert message in done.err


@pytest.fixture
def start(project: Path, site: Site) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `agl` in a process of its own, ended afterwards whatever happens."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        code = "import sys; from agentlightning.cli import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(site.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_until_started(process: subprocess.Popen[str]) -> None:
    """What an agent prints is on stderr, where progress is too, because stdout is for a machine."""
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert "started\n" in lines, process.communicate()


WAIT = (
    "train",
    "agent.py:wait",
    "--algorithm",
    "look",
    "--train",
    "train.jsonl",
    "--val",
    "val.jsonl",
    "--json",
)


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(
    agl: Agl, project: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(*WAIT)
    wait_until_started(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    error = json.loads(out)["error"]
    (run,) = agl("runs", "--json").json
    assert f"agl runs resume {run['id']}" in error["message"]
    assert run["status"] == "stopped"
    assert "Traceback" not in err

    agent = project / "agent.py"
    agent.write_text(agent.read_text().replace("await asyncio.sleep(60)", "return 1.0"))
    done = agl("runs", "resume", run["id"], "--json")
    assert done.code == 0, done.err
    assert done.json["summary"]["after"]["mean"] == 1.0


def test_a_running_run_is_stopped_from_outside(
    agl: Agl, project: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(*WAIT)
    wait_until_started(process)
    (run,) = agl("runs", "--json").json
    assert agl("runs", "stop", run["id"]).code == 0
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert agl("runs", "--json").json[0]["status"] == "stopped"


def test_the_demo_shows_before_and_after(agl: Agl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentlightning import demo
    from agentlightning.config import load_config
    from agentlightning.demo import DemoReport, Score
    from agentlightning.jobs import train_from_config

    def small(*, seed: int, directory: str, port: int, observers: list[str]) -> tuple[DemoReport, object]:
        flags = {
            "target": "agent.py:solve",
            "algorithm": ["look"],
            "train": "train.jsonl",
            "val": "val.jsonl",
        }
        result = train_from_config(load_config(flags=flags | {"seed": seed}).config, observers=observers)
        score = Score(mean=0.25, low=0.2, high=0.3, n=4)
        report = DemoReport(
            before=score, after=score, rollouts=8, updates=2, tokens=1_234, seconds=61.0,
            run_id=result.run_id, store=result.store,
        )  # fmt: skip
        return report, result

    monkeypatch.setattr(demo, "run_demo", small)
    out = agl("demo", "--seed", "3").out
    for part in (
        "before training",
        "after training",
        "0.250",
        "0.200 to 0.300",
        "1,234 tokens",
        "agl runs show",
    ):
        assert part in out
    assert agl("demo", "--json", "--quiet").json["before"] == {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 4}


def test_evaluation_of_a_run_refuses_settings_that_would_be_ignored(agl: Agl, project: Path) -> None:
    refused = agl("eval", "--run", "train-1", "--seed", "3", "--data", "val.jsonl")
    assert refused.code == 2
    assert "seed would be ignored" in refused.err
