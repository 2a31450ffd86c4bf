"""`agl export`, `agl import` and `agl trim`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentlightning.cli import main
from agentlightning.cli._quantities import parse_duration, parse_size, size_text
from agentlightning.errors import ConfigError
from agentlightning.store import SqliteStore, Store

URL = "sqlite:///source.db"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def agl(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fill: Callable[[Store], Awaitable[None]],
) -> Callable[..., Done]:
    """Runs `agl` with arguments, in a folder with a store that has something of everything."""
    for name in [name for name in os.environ if name.startswith("AGL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGL_PLUGINS", "core")

    async def make() -> None:
        async with SqliteStore(tmp_path / "source.db") as store:
            await fill(store)

    asyncio.run(make())

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_a_store_is_exported_and_imported(agl: Callable[..., Done], tmp_path: Path) -> None:
    exported = agl("export", "--store", URL, "--to", "out")
    assert exported.code == 0
    assert "3 rollouts, 3 attempts, 8 spans to out (" in exported.out
    imported = agl("import", "out", "--store", "sqlite:///copy.db")
    assert (imported.code, imported.out) == (0, "imported 28 records; 0 were there already\n")
    assert (tmp_path / "copy.db").is_file()
    again = agl("import", "out", "--store", "sqlite:///copy.db", "--json")
    assert again.json == {"store": "sqlite:///copy.db", "added": 0, "skipped": 28, "rejected": {}}
    assert json.loads(agl("rollouts", "--store", "sqlite:///copy.db", "--json").out.splitlines()[-1])


def test_options_of_export_say_what_is_written(agl: Callable[..., Done], tmp_path: Path) -> None:
    whole = agl("export", "--store", URL, "--to", "whole", "--unfinished", "--gzip", "--json").json
    assert whole["manifest"]["counts"]["rollouts"] == 5
    assert (tmp_path / "whole" / "spans.jsonl.gz").is_file()
    one = agl("export", "--store", URL, "--to", "one", "--run", "fir", "--json").json
    assert one["manifest"]["run_id"] == "first"
    refused = agl("export", "--store", URL, "--to", "one")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert agl("export", "--store", URL, "--to", "one", "--force").code == 0
    assert agl("export", "--store", "sqlite:///nowhere.db", "--to", "x").code == 2
    assert agl("export", "--store", URL, "--to", "x", "--format", "csv").code == 2
    assert not (tmp_path / "x").exists()


def test_tables_are_exported(agl: Callable[..., Done], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert agl("export", "--store", URL, "--to", "tables", "--format", "parquet").code == 0
    assert (tmp_path / "tables" / "rewards.parquet").is_file()
    assert agl("import", "tables", "--store", "sqlite:///copy.db", "--json").json["added"] == 28


def test_a_damaged_archive_is_a_usage_error(agl: Callable[..., Done], tmp_path: Path) -> None:
    agl("export", "--store", URL, "--to", "out")
    with (tmp_path / "out" / "spans.jsonl").open("ab") as file:
        file.write(b"x")
    done = agl("import", "out", "--store", "sqlite:///copy.db")
    assert (done.code, "too long" in done.err) == (2, True)
    assert agl("import", "missing", "--store", "sqlite:///copy.db").code == 2
    assert agl("import", "out", "--store", "memory://").code == 2


def test_trim_deletes_when_told_to(agl: Callable[..., Done]) -> None:
    done = agl("trim", "--store", URL, "--keep", "1", "--yes", "--json")
    assert (done.code, done.json["rollouts"], done.json["spans"]) == (0, 2, 8)
    left = json.loads(agl("rollouts", "--store", URL, "--json").out.splitlines()[-1])
    assert {one["rollout"]["id"] for one in left} == {"dropped", "running", "queued"}
    done = agl("trim", "--store", URL, "--older-than", "1h", "--max-size", "1GB", "--yes")
    assert done.out == "deleted 0 rollouts with 0 spans (0 B)\n"


def test_trim_never_deletes_unasked(agl: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    done = agl("trim", "--store", URL, "--keep", "0")
    assert (done.code, "add --yes" in done.err) == (2, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "n"

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    done = agl("trim", "--store", URL, "--keep", "1", "--older-than", "0s", "--max-size", "0B")
    assert done.code == 130
    assert "has 3 rollouts that are over, and 2" in done.out
    assert "3 rollouts are too old" in done.out
    assert "2 rollouts are too many" in done.out
    assert "of spans are too much" in done.out
    assert asked == ["delete this? [y/N]: "]
    left = json.loads(agl("rollouts", "--store", URL, "--json").out.splitlines()[-1])
    assert len(left) == 5


@pytest.mark.parametrize(
    "arguments",
    [[], ["--older-than", "30"], ["--older-than", "soon"], ["--max-size", "10"], ["--keep", "-1"]],
    ids=repr,
)
def test_trim_needs_to_know_how_much(agl: Callable[..., Done], arguments: list[str]) -> None:
    assert agl("trim", "--store", URL, "--yes", *arguments).code == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15min", 900), ("15m", 900), ("1.5h", 5_400), ("30d", 2_592_000), (" 2 W ", 1_209_600)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0B", 0), ("10GB", 10**10), ("512MiB", 2**29), ("1.5 kb", 1_500), ("2TiB", 2**41)],
)
def test_sizes_have_units(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "d", "30", "-1d", "1d2h", "1e3d", "٣d", "1y", "9" * 400 + "d"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it such as 30d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (25e6, "25 MB"), (3e12, "3.0 TB")]
)
def test_sizes_are_short(size_bytes: float, text: str) -> None:
    assert size_text(size_bytes) == text
