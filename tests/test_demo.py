"""The demo for real: it gets better, repeats itself, survives `kill -9`, and stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentlightning import Trainer, demo
from agentlightning.demo import DemoReport, DemoSize, run_demo
from agentlightning.demo.tasks import held_out_tasks
from agentlightning.gateway import Sampling
from agentlightning.trainer import TrainingResult
from agentlightning.types import Mode

SMALL = DemoSize(
    demonstrations=60,
    warm_start_steps=12,
    train_tasks=40,
    held_out_tasks=16,
    updates=4,
    tasks_per_update=4,
    group_size=4,
)
SCRIPT = """
import sys
from agentlightning.demo import DemoSize, run_demo
from agentlightning.errors import AglError

try:
    run_demo(seed=5, directory=sys.argv[1], size=DemoSize(**{size}))
except AglError as error:
    print(error)
    sys.exit(130)
"""


def agl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from agentlightning.cli import main; sys.exit(main())",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@contextmanager
def started_demo(directory: Path) -> Iterator[subprocess.Popen[str]]:
    size = {name: getattr(SMALL, name) for name in SMALL.__struct_fields__} | {"updates": 12}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(size=repr(size)), str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def runs(store: str) -> list[Mapping[str, object]]:
    listed = agl("runs", "list", "--store", store, "--json")
    assert listed.returncode == 0, listed.stderr
    found: list[Mapping[str, object]] = json.loads(listed.stdout)
    return found


def wait_for_updates(process: subprocess.Popen[str], store: str, *, updates: int) -> str:
    """Waits until the run has checkpointed reinforcement learning at least that often; returns its id."""
    database = Path(store.removeprefix("sqlite:///"))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for manifest in sorted(database.parent.glob("demo-runs/*/checkpoints/??????/run.json")):
            with suppress(FileNotFoundError):  # an old one may just be going
                state = json.loads(manifest.read_text())
                if state["state"].get("part") == 1 and state["step"] >= updates:
                    return manifest.parents[2].name
        time.sleep(0.05)
    raise AssertionError("the demo never got that far")


def comparable(report: DemoReport) -> tuple[object, ...]:
    return report.before, report.after, report.rollouts, report.updates, report.tokens


def test_two_demos_with_one_seed_give_the_same_numbers(tmp_path: Path) -> None:
    first, one = run_demo(seed=3, directory=tmp_path / "one", size=SMALL)
    second, two = run_demo(seed=3, directory=tmp_path / "two", size=SMALL)
    assert comparable(first) == comparable(second)
    values = [
        [(point.name, point.step, point.value) for point in result.history if "time" not in point.name]
        for result in (one, two)
    ]
    assert values[0] == values[1]
    assert evaluated(one, tmp_path / "again") == first.after.mean


def evaluated(result: TrainingResult, directory: Path) -> float:
    """Success of the model that a demo of seed 3 has left behind, served from its Hugging Face directory."""
    assert result.best is not None
    return (
        Trainer(
            f"{Path(demo.__file__).with_name('agent.py')}:solve",
            val=held_out_tasks(3, SMALL.held_out_tasks),
            store=f"sqlite:///{directory / 'agl.db'}",
            engine="torch",
            engine_params={"model": result.best.resources["policy"].value["path"]},
            graders=["agentlightning.demo.tasks:grade"],
            sampling={Mode.VAL: Sampling(temperature=1.0)},
            seed=3,
        )
        .evaluate()
        .mean
    )


def test_a_killed_demo_is_shown_as_interrupted_and_goes_on_to_the_end(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    with started_demo(tmp_path) as process:
        run_id = wait_for_updates(process, store, updates=2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (run,) = runs(store)
    assert run["id"] == run_id
    assert run["status"] == "interrupted"
    resumed = agl("runs", "resume", run_id, "--store", store)
    assert resumed.returncode == 0, resumed.stderr
    (run,) = runs(store)
    assert run["status"] == "succeeded"
    unbroken, result = run_demo(
        seed=5,
        directory=tmp_path / "unbroken",
        size=DemoSize(**{name: getattr(SMALL, name) for name in SMALL.__struct_fields__} | {"updates": 12}),
    )
    shown = json.loads(agl("runs", "show", run_id, "--store", store, "--json").stdout)["run"]
    for label in ("before", "after"):
        assert shown["summary"][label]["mean"] == result.summary[label]["mean"]  # type: ignore[index]
    assert unbroken.updates == 12


def test_ctrl_c_stops_the_demo_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    with started_demo(tmp_path) as process:
        run_id = wait_for_updates(process, store, updates=1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"agl runs resume {run_id}" in output
    (run,) = runs(store)
    assert run["status"] == "stopped"


@pytest.mark.slow
@pytest.mark.timeout(900)  # five minutes on two idle cores
def test_the_demo_gets_from_a_minority_to_nine_in_ten(tmp_path: Path) -> None:
    demo = agl("demo", "--json", "--seed", "0", "--directory", str(tmp_path))
    assert demo.returncode == 0, demo.stderr
    report = json.loads(demo.stdout.splitlines()[-1])
    assert report["before"]["mean"] < 0.5
    assert report["after"]["mean"] >= 0.9
    assert report["before"]["high"] < report["after"]["low"]
    assert report["before"]["n"] == report["after"]["n"] >= 200
    page = json.loads(agl("rollouts", "list", "--store", report["store"], "--json").stdout)
    shown = agl("rollouts", "show", page[0]["rollout"]["id"], "--store", report["store"])
    assert shown.returncode == 0, shown.stderr
    assert "calculator" in shown.stdout
