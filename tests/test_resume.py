"""A killed training goes on: in turn to the same numbers, beside the learner without losing or repeating a group."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentlightning.store import open_store
from agentlightning.types import (
    Json,
    PromptTemplate,
    Resource,
    ResourceSet,
    ResourceState,
    Run,
    RunEvent,
    RunStatus,
)

pytest.importorskip("lightning_algorithm_lightningrl")
pytest.importorskip("lightning_plugin_gateway")
pytest.importorskip("lightning_adapter_openai")

sys.path.insert(0, str(Path(__file__).parent / "resume"))
import killed_training  # beside this file, and imported by the processes that are killed

IN_TURN: dict[str, Json] = {
    "updates": 4,
    "tasks_per_update": 2,
    "group_size": 3,
    "checkpoint_every": 1,
    "learning_rate": 1e-2,
}
BESIDE = IN_TURN | {"updates": 8, "max_staleness": 2}
FROM_STORE = IN_TURN | {"correction": [{"name": "tis"}]}
PHASES = ("rollouts:9", "learning:2", "after_step:2", "in_checkpoint:1")


def train(
    folder: Path, backend: str, params: dict[str, Json], where: str, mode: dict[str, Json] | None = None
) -> int:
    """Trains in a process of its own, forked from one that has imported everything; returns how it ended."""
    folder.mkdir(exist_ok=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["killed_training", "openai", "lightning_algorithm_lightningrl._loop"])
    arguments = (folder, backend, json.dumps(params), where, json.dumps(mode or {}))
    process = processes.Process(target=killed_training.main, args=arguments)
    process.start()
    process.join(timeout=240)
    assert process.exitcode in (0, -signal.SIGKILL), "what it said is above"
    return process.exitcode


def killed_and_finished(
    folder: Path,
    backend: str,
    params: dict[str, Json],
    phases: Sequence[str] = PHASES,
    mode: dict[str, Json] | None = None,
) -> Run:
    for phase in phases:
        assert train(folder, backend, params, phase, mode) == -signal.SIGKILL, phase
    assert train(folder, backend, params, "never", mode) == 0
    run, _ = read(folder)
    return run


def read(folder: Path) -> tuple[Run, dict[tuple[str, int], float]]:
    """The only run of a folder, and its metrics by name and step.

    Left out are times, policy versions, which a run that goes on gives anew, and the gateway's canary, which compares
    answers of one process.
    """

    async def job() -> tuple[Run, dict[tuple[str, int], float]]:
        async with open_store(f"sqlite:///{folder / 'agl.db'}") as store:
            (run,) = await store.runs.list()
            points = await store.runs.metrics(run.id)
        return run, {
            (one.name, one.step): one.value
            for one in points
            if not re.search("time|canary|^version$", one.name)
        }

    return asyncio.run(job())


def test_a_training_in_turn_comes_to_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", "scripted", IN_TURN, "never") == 0
    run = killed_and_finished(tmp_path / "killed", "scripted", IN_TURN)
    whole, expected = read(tmp_path / "whole")
    _, found = read(tmp_path / "killed")
    assert run.status is whole.status is RunStatus.SUCCEEDED
    assert found == expected
    assert ("value", 3) in found


@pytest.mark.slow
def test_a_real_model_in_turn_comes_to_the_same_numbers_too(tmp_path: Path) -> None:
    pytest.importorskip("lightning_plugin_torch")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert train(tmp_path / "killed", "torch", IN_TURN, "after_step:2") == -signal.SIGKILL
    for name in ("whole", "killed"):
        killed_training.client.cache_clear()
        killed_training.main(tmp_path / name, "torch", json.dumps(IN_TURN), "never")
    _, expected = read(tmp_path / "whole")
    _, found = read(tmp_path / "killed")
    assert found == expected
    assert len({value for (name, _), value in found.items() if name == "loss"}) > 1


def test_a_training_beside_its_rollouts_neither_loses_nor_repeats_a_group(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    run = killed_and_finished(folder, "scripted", BESIDE)
    assert run.status is RunStatus.SUCCEEDED
    assert run.checkpoint is not None
    saved = json.loads((Path(run.checkpoint.path) / "scripted.json").read_text())
    places = [int(group.split("/")[2]) for group in saved["learned"]]
    _, metrics = read(folder)
    stale = sum(value for (name, _), value in metrics.items() if name == "groups/stale")
    assert len(places) == len(set(places))
    assert max(places) + 1 - len(places) == stale
    assert len(places) == 16
    assert max(value for (name, _), value in metrics.items() if name == "staleness/max") <= 2


def test_a_training_from_a_store_comes_to_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    assert train(tmp_path / "source", "scripted", IN_TURN, "never") == 0
    stored: dict[str, Json] = {
        "offline": {"store": f"sqlite:///{tmp_path / 'source' / 'agl.db'}", "order": "priority"}
    }
    assert train(tmp_path / "whole", "scripted", FROM_STORE, "never", stored) == 0
    phases = ("after_step:2", "in_checkpoint:2")
    run = killed_and_finished(tmp_path / "killed", "scripted", FROM_STORE, phases, stored)
    _, expected = read(tmp_path / "whole")
    _, found = read(tmp_path / "killed")
    assert run.status is RunStatus.SUCCEEDED
    assert found == expected
    assert ("value", 3) in found
    assert 0.0 < found["replay/weight", 0] < 1.0


LEARNING: dict[str, Json] = {**IN_TURN, "updates": 2}
PROMOTING: dict[str, Json] = {
    "continuous": {"every_rollouts": 8, "canary_rollouts": 4, "rounds": 3, "accept": "no_loss"},
    "gain": 0.1,
}
TAKING_BACK: dict[str, Json] = {
    "continuous": {"every_rollouts": 8, "canary_rollouts": 4, "rounds": 2, "accept": "no_loss"},
    "gain": -1.0,
    "val": 0,
}
TURNING_DOWN: dict[str, Json] = TAKING_BACK | {"val": 4}


def sets_of(folder: Path) -> tuple[list[ResourceSet], list[RunEvent]]:
    """Resource sets, oldest first, and what happened to them."""

    async def job() -> tuple[list[ResourceSet], list[RunEvent]]:
        async with open_store(f"sqlite:///{folder / 'agl.db'}") as store:
            (run,) = await store.runs.list()
            events = [one for one in await store.runs.events(run.id) if one.kind == "continuous"]
            return [*reversed(await store.resources.list(run_id=run.id))], events

    return asyncio.run(job())


def weights_of(chosen: ResourceSet) -> tuple[float, list[str]]:
    """What the scripted learner has saved with a set: its number, and the groups that it has learned."""
    path = Path(str(chosen.resources["policy"].value["path"]))
    saved = json.loads((path / "scripted.json").read_text())
    return saved["value"], [group.partition("/")[2] for group in saved["learned"]]


def served(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Version and weights that each call was answered with, by run."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "served.jsonl").read_text().splitlines():
        run, version, value = json.loads(line)
        found.setdefault(run, []).append((version, value))
    return found


def check_versions(folder: Path) -> None:
    """A version has served one set of weights, and none has served after a higher one."""
    for calls in served(folder).values():
        versions = [version for version, _ in calls]
        assert versions == sorted(versions)
        assert len(set(calls)) == len(set(versions))


def check_sets(folder: Path) -> dict[str, list[ResourceSet]]:
    """One set is live, nothing is left in between, nothing was promoted twice; the run's sets by state."""
    sets, events = sets_of(folder)
    found: dict[str, list[ResourceSet]] = {}
    for one in sets:
        found.setdefault(one.state.value, []).append(one)
    assert len(found["live"]) == 1
    assert len(found.get("canary", [])) <= 1
    assert "candidate" not in found
    promoted = [event.message.split(": ")[1] for event in events if " live: " in event.message]
    assert len(promoted) == len(set(promoted))
    check_versions(folder)
    return found


@pytest.mark.slow
def test_a_killed_continuous_training_promotes_what_an_unbroken_one_does(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", "scripted", LEARNING, "never", PROMOTING) == 0
    phases = (
        "published:1",  # the weights that it begins with
        "rollouts:3",  # collecting
        "after_step:1",
        "published:1",  # a candidate
        "moved_canary:1",
        "moved_live:1",  # promoted
    )
    run = killed_and_finished(tmp_path / "killed", "scripted", LEARNING, phases, PROMOTING)
    assert run.status is RunStatus.SUCCEEDED
    expected, found = check_sets(tmp_path / "whole"), check_sets(tmp_path / "killed")
    for state in ("live", "canary"):
        assert [weights_of(one) for one in found[state]] == [weights_of(one) for one in expected[state]]
    assert len(weights_of(found["live"][0])[1]) > 0


def test_a_continuous_training_that_is_killed_while_it_takes_back_serves_what_is_live(tmp_path: Path) -> None:
    for name, mode in (("canary", TAKING_BACK), ("candidate", TURNING_DOWN)):
        folder = tmp_path / name
        assert train(folder, "scripted", LEARNING, "moved_retired:1", mode) == -signal.SIGKILL
        publish(
            folder, *({} for _ in range(120)), state=ResourceState.RETIRED
        )  # more than a store lists at once
        assert train(folder, "scripted", LEARNING, "never", mode) == 0
        found = check_sets(folder)
        assert weights_of(found["live"][0]) == (0.0, []), name
        assert len(found["retired"]) == (1 if name == "canary" else 2), name


def test_another_run_takes_up_the_weights_that_are_live(tmp_path: Path) -> None:
    assert train(tmp_path, "scripted", LEARNING, "never", TAKING_BACK) == 0
    (live,) = check_sets(tmp_path)["live"]
    assert live.resources["policy"].value["version"] == 0
    publish(tmp_path, {"system": PromptTemplate(template="think")}, state=ResourceState.CANARY)
    rule = {"every_rollouts": 8, "canary_rollouts": 1_000, "rounds": 1}
    other: dict[str, Json] = TAKING_BACK | {"continuous": rule, "value": 5.0}  # it begins with other weights
    assert train(tmp_path, "scripted", LEARNING, "never", other) == 0
    _, second = served(tmp_path).values()
    assert {call for call in second if call[0]} == {(1, 0.0)}  # before that, nothing but the gateway asks
    assert asyncio.run(live_of(tmp_path)) == live.id


def publish(folder: Path, *sets: dict[str, Resource], state: ResourceState) -> None:
    """Adds sets of nobody's run."""

    async def job() -> None:
        async with open_store(f"sqlite:///{folder / 'agl.db'}") as store:
            for one in sets:
                await store.resources.publish(one, state=state, weight=0.5)

    asyncio.run(job())


async def live_of(folder: Path) -> str:
    async with open_store(f"sqlite:///{folder / 'agl.db'}") as store:
        live = await store.resources.live()
        return live.id if live else ""
