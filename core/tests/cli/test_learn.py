"""`agl learn`: a round from the command line, and what a person sees of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Agl = Callable[..., Any]

AGENT = """
import agentlightning as agl


def solve(task):
    return float(len(agl.prompt("system").render()) > 3)
"""
ALGORITHM = """
from agentlightning.plugins import hookimpl
from agentlightning.specs import AlgorithmSpec


class Longer:
    name = "longer"

    def __init__(self, params):
        pass

    async def fit(self, context):
        import agentlightning as agl

        await context.publish({"system": agl.PromptTemplate(template="a longer one")})


@hookimpl
def agl_register_algorithms():
    return [AlgorithmSpec(name="longer", target="longer:Longer")]
"""


async def _start() -> None:
    import agentlightning as agl

    async with agl.open_store("sqlite:///agl.db") as store:
        await store.resources.publish({"system": agl.PromptTemplate(template="abc")})


@pytest.fixture
def ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an agent, tasks, a live prompt and an algorithm that knows a better one."""
    import asyncio

    from agentlightning import plugins

    (folder / "agent.py").write_text(AGENT)
    (folder / "longer.py").write_text(ALGORITHM)
    (folder / "tasks.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(8)))
    monkeypatch.syspath_prepend(str(folder))
    import longer  # type: ignore[import-not-found]

    load = plugins.load_plugins

    def loaded(**options: object) -> plugins.Plugins:
        found = load(**options)  # type: ignore[arg-type]
        found.register(longer, "longer")
        return found

    monkeypatch.setattr("agentlightning.cli._learn.load_plugins", loaded)
    asyncio.run(_start())
    return folder


def test_one_round_makes_a_canary_and_says_so(ready: Path, agl: Agl) -> None:
    done = agl(
        "learn", "agent.py:solve", "--algorithm", "longer", "--train", "tasks.jsonl", "--val", "tasks.jsonl",
        "--every-rollouts", "4", "--canary", "0.25", "--once", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "canary" in done.out
    assert "25%" in done.out
    status = agl("learn", "--status", "--json")
    found = status.json
    assert isinstance(found, dict)
    assert [one["state"] for one in found["sets"]] == ["canary", "live"]
    assert any("set 2 canary: +1.000" in event["message"] for event in found["events"])


def test_the_status_of_a_store_that_is_not_there_says_what_to_do(folder: Path, agl: Agl) -> None:
    done = agl("learn", "--status")
    assert done.code == 2
    assert "there is no store" in done.err


def test_once_and_several_rounds_contradict_each_other(folder: Path, agl: Agl) -> None:
    done = agl("learn", "agent.py:solve", "--once", "--rounds", "3")
    assert done.code == 2
    assert "leave one out" in done.err
