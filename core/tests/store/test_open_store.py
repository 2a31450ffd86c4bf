"""From a URL to a store, or to one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlightning.errors import ConfigError
from agentlightning.store import MemoryStore, SqliteStore, Store, open_store
from agentlightning.types import RolloutRequest


def test_memory_is_a_store_in_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("sqlite:///runs/a.db").url == f"sqlite:///{tmp_path}/runs/a.db"


def test_an_absolute_path_has_four_slashes(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    assert isinstance(store, SqliteStore)
    assert store.url == f"sqlite:///{tmp_path}/a.db"


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/a/b/c.db") as store:
        await store.rollouts.enqueue([RolloutRequest(task=0)])
    assert (tmp_path / "a" / "b" / "c.db").exists()


async def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db?durability=full"
    async with open_store(url) as store:
        assert store.url == url
        (rollout,) = await store.rollouts.enqueue([RolloutRequest(task=0)])
    async with store:
        assert await store.rollouts.get(rollout.id) == rollout
    async with open_store(url) as again:
        assert await again.rollouts.get(rollout.id) == rollout


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("runs/a.db", "sqlite:///runs/a.db"),
        ("sqlit:///a.db", "did you mean 'sqlite'"),
        ("postgresql://host/db", "come with plugins"),
        ("sqlite://a.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a.db?durabilty=full", "'durability'"),
        ("sqlite:///a.db?durability=maximal", "normal or full"),
        ("memory://a.db", "sqlite:///FILE"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_store(url)
    assert advice in str(refused.value)
    assert url in str(refused.value)


def test_further_schemes_come_from_plugins() -> None:
    asked: list[str] = []

    def make(url: str) -> Store:
        asked.append(url)
        return MemoryStore()

    open_store("cloud://somewhere", schemes={"cloud": make})
    assert asked == ["cloud://somewhere"]
    with pytest.raises(ConfigError, match="did you mean 'cloud'"):
        open_store("clod://somewhere", schemes={"cloud": make})
