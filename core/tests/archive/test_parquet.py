"""Tables that other tools can read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning.archive import Layout, export_store, import_archive
from agentlightning.archive._manifest import describe, rendered, sealed
from agentlightning.errors import ConfigError, MissingExtra
from agentlightning.store import Store

parquet = pytest.importorskip("pyarrow.parquet")


def rows(archive: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(archive / f"{name}.parquet").to_pylist()
    return found


async def test_tokens_are_columns_of_lists(store: Store, archive: Path) -> None:
    await export_store(store, archive, layout=Layout.PARQUET)
    schema = parquet.read_schema(archive / "spans.parquet")
    kinds = {name: str(schema.field(name).type) for name in ("prompt_ids", "response_ids", "logprobs")}
    assert kinds == {
        "prompt_ids": "list<element: int32>",
        "response_ids": "list<element: int32>",
        "logprobs": "list<element: float>",
    }
    several, one, none, *_ = rows(archive, "spans")
    assert (several["prompt_ids"], several["response_ids"]) == ([1, 2, 3], [4, 5])
    assert several["logprobs"] == [pytest.approx(-0.1), -(2.0**-126)]
    assert [choice["response_ids"] for choice in several["further_choices"]] == [[6], []]
    assert several["further_choices"][1]["incomplete"] == "nobody sent ids"
    assert (one["policy_version"], one["further_choices"]) == (7, [])
    assert (none["prompt_ids"], none["policy_version"], none["raw_tokens"]) == (None, None, None)


async def test_plain_fields_are_columns_and_nested_ones_are_json(store: Store, archive: Path) -> None:
    await export_store(store, archive, layout=Layout.PARQUET)
    good, bad, _ = rows(archive, "rollouts")
    assert (good["id"], good["status"], good["task"]) == ("good", "succeeded", '{"q":"1+1"}')
    assert (good["seed"], good["output"]) == (str(2**63), '{"answer":[2,null]}')
    assert (bad["failure"], bad["output"]) == (
        '{"kind":"agent_error","message":"broke","detail":"line\\n2"}',
        None,
    )
    assert isinstance(good["created_at"], float)
    assert [(one["run_id"], one["step"], one["value"]) for one in rows(archive, "metrics")][:2] == [
        ("first", 0, 0.0),
        ("first", 1, pytest.approx(1 / 3)),
    ]
    assert [one["index"] for one in rows(archive, "events")] == [0, 1, 0, 1]


async def test_rewards_are_a_table_of_their_own(store: Store, archive: Path) -> None:
    manifest = await export_store(store, archive, layout=Layout.PARQUET)
    found = rows(archive, "rewards")
    assert [(one["rollout_id"], one["value"], one["dimension"]) for one in found] == [
        ("good", 0.25, "reward"),
        ("bad", -1.0, "reward"),
    ]
    assert sum(manifest.counts.values()) == sum(
        len(rows(archive, file.kind.value)) for file in manifest.files
    )


async def test_rows_come_in_several_groups(
    store: Store, other: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.archive._parquet._GROUP_ROWS", 1)
    monkeypatch.setattr("agentlightning.archive._parquet._READ_ROWS", 2)
    monkeypatch.setattr("agentlightning.archive._source._MOST_SPANS", 2)
    monkeypatch.setattr("agentlightning.archive._source._FEWEST_SPANS", 1)
    await export_store(store, archive, layout=Layout.PARQUET)
    assert parquet.ParquetFile(archive / "spans.parquet").num_row_groups > 2
    await import_archive(other, archive)
    again = archive.parent / "again"
    for file in (await export_store(other, again, layout=Layout.PARQUET)).files:
        assert parquet.read_table(again / file.name) == parquet.read_table(archive / file.name)


async def test_a_table_with_other_columns_is_refused(store: Store, other: Store, archive: Path) -> None:
    manifest = await export_store(store, archive, layout=Layout.PARQUET)
    table = parquet.read_table(archive / "runs.parquet")
    parquet.write_table(table.drop_columns(["algorithm"]), archive / "runs.parquet")
    files = tuple(
        describe(archive, name=file.name, kind=file.kind, records=file.records) for file in manifest.files
    )
    forged = sealed(msgspec.structs.replace(manifest, files=files))
    (archive / "manifest.json").write_bytes(rendered(forged))
    with pytest.raises(ConfigError, match="column 'algorithm' is 'None', expected 'string'"):
        await import_archive(other, archive)


async def test_without_pyarrow_the_message_says_how_to_install_it(
    store: Store, other: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await export_store(store, archive, layout=Layout.PARQUET)
    found = importlib.import_module

    def missing(name: str, package: str | None = None) -> object:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return found(name, package)

    monkeypatch.setattr("agentlightning.archive._arrow.import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'agentlightning-core\[parquet\]'"):
        await export_store(store, archive.parent / "second", layout=Layout.PARQUET)
    assert not (archive.parent / "second").exists()
    with pytest.raises(MissingExtra, match="pip install"):
        await import_archive(other, archive)
    assert sum((await other.statistics()).rollouts.values()) == 0
