"""`agl doctor`: what is in order, and what is broken, with the remedy."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentlightning import semconv
from agentlightning.store import open_store
from agentlightning.types import RolloutRequest, Span, SpanSource, TokenRecord

if TYPE_CHECKING:
    from core.tests.cli.conftest import Done
    from core.tests.conftest import Site

    Agl = Callable[..., Done]

NEEDY = """
from agentlightning.plugins import hookimpl
from agentlightning.specs import EngineSpec

@hookimpl
def agl_register_engines():
    return [EngineSpec(name="needy", target="x:y", requires=("not-there-at-all",), extra="needy[all]")]
"""
INSTALLED = {entry.name for entry in entry_points(group="agentlightning")}


def test_a_healthy_installation_is_in_order(agl: Agl, project: Path) -> None:
    done = agl("doctor", "--json")
    assert done.code == 0, done.out
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks["loopback"]["health"] == "ok"
    assert "is writable" in checks["store folder"]["found"]
    assert not list(project.glob("*.db"))
    agl("eval", "agent.py:solve", "--data", "val.jsonl", "--quiet")
    checks = {check["name"]: check for check in agl("doctor", "--json").json["checks"]}
    assert checks["store"]["health"] == "ok"
    assert "none of them incomplete" in checks["capture"]["found"]
    assert "loopback" in agl("doctor").out


def test_the_doctor_names_what_is_broken_and_the_remedy(
    agl: Agl, project: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("AGL_GATEWAY__PORT", str(taken.getsockname()[1]))
        done = agl("doctor", "--store", "sqlite:///missing/folder/x.db")
    assert done.code == 1
    assert "loopback: choose another port with gateway.port" in done.out
    assert "store folder: make the folder and give this user write permission" in done.out
    monkeypatch.setenv("AGL_SEDE", "1")
    assert "did you mean 'seed'" in agl("doctor").out


def test_the_doctor_warns_of_plugins_and_the_gpu(
    agl: Agl, project: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("bad", "1 / 0")
    site.install("needy", NEEDY)
    programs = project / "bin"
    programs.mkdir()
    smi = programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Big GPU, 80 GiB, 1.2'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("AGL_DISABLE", ",".join(INSTALLED - {"core", "bad", "needy"}))
    monkeypatch.delenv("AGL_PLUGINS")
    done = agl("doctor", "--json")
    assert done.code == 0
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks["plugin bad"]["health"] == "warning"
    assert "AGL_DISABLE=bad" in checks["plugin bad"]["remedy"]
    assert checks["needy"]["remedy"] == "to use it run: pip install needy[all]"
    assert "Big GPU" in checks["GPU"]["found"]
    smi.write_text("#!/bin/sh\nexit 9\n")
    checks = {check["name"]: check for check in agl("doctor", "--json").json["checks"]}
    assert checks["GPU"]["health"] == "warning"


def test_the_doctor_names_the_first_call_without_tokens(agl: Agl, project: Path) -> None:
    agl("eval", "agent.py:solve", "--data", "val.jsonl", "--quiet")
    rollout_id = asyncio.run(leave_an_incomplete_call())
    checks = {check["name"]: check for check in agl("doctor", "--json").json["checks"]}
    assert checks["capture"]["health"] == "warning"
    assert (
        f"call s1 of rollout {rollout_id} has no tokens: upstream gave no ids" in checks["capture"]["found"]
    )


async def leave_an_incomplete_call() -> str:
    async with open_store("sqlite:///agl.db") as store:
        await store.rollouts.enqueue([RolloutRequest(task=1)])
        (lease,) = await store.rollouts.lease("test")
        span = Span(
            rollout_id=lease.rollout.id, attempt_id=lease.attempt.id, span_id="s1", trace_id="t", name="chat",
            operation=semconv.OPERATION_CHAT, source=SpanSource.GATEWAY, start_ns=0, end_ns=1,
            tokens=(TokenRecord(incomplete="upstream gave no ids"),),
        )  # fmt: skip
        await store.spans.append([span])
        return lease.rollout.id


def test_the_doctor_finds_a_store_that_is_none(agl: Agl, project: Path) -> None:
    (project / "agl.db").write_text("this is no database, however long one looks at it" * 100)
    done = agl("doctor", "--json")
    assert done.code == 1
    assert [check["health"] for check in done.json["checks"] if check["name"] == "store"] == ["broken"]
