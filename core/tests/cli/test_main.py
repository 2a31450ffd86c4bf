from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from agentlightning import errors
from agentlightning.builtin import COMMANDS
from agentlightning.cli import main
from agentlightning.plugins import load_plugins

if TYPE_CHECKING:
    from core.tests.cli.conftest import Done
    from core.tests.conftest import Site

    Agl = Callable[..., Done]

RAISING = """
import click
from agentlightning import errors
from agentlightning.plugins import hookimpl
from agentlightning.specs import CommandSpec

@hookimpl
def agl_register_commands():
    return [CommandSpec(name="boom", target="dist_boom_hooks:command", summary="fails"),
            CommandSpec(name="not-one", target="json:loads")]

@click.command()
@click.argument("name")
@click.option("--json", is_flag=True)
def command(name, json):
    if name == "KeyboardInterrupt":
        raise KeyboardInterrupt
    raise getattr(errors, name, RuntimeError)("what\\nhappened")
"""


def tree(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from tree(inner, (*path, name))


def all_commands() -> list[tuple[tuple[str, ...], click.Command]]:
    plugins = load_plugins(names=[])
    loaded = ((spec.name, plugins.load(spec)) for spec in plugins.commands().values())
    return [
        found
        for name, command in loaded
        if isinstance(command, click.Command)
        for found in tree(command, (name,))
    ]


def test_every_command_speaks_json_and_explains_itself(agl: Agl) -> None:
    for path, command in all_commands():
        assert any("--json" in one.opts for one in command.params), path
        done = agl(*path, "--help")
        assert done.code == 0
        assert command.help
        assert "--json" in done.out


def test_help_lists_built_in_commands_and_those_of_plugins(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("boom", RAISING)
    monkeypatch.setenv("AGL_PLUGINS", "boom")
    done = agl("--help")
    assert done.code == 0
    assert {spec.name for spec in COMMANDS} | {"boom"} <= set(done.out.split())
    assert agl().out == done.out


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("TargetError", 2),
        ("PluginNotFound", 2),
        ("StoreUnavailable", 1),
        ("EngineError", 1),
        ("BudgetExhausted", 3),
        ("Interrupted", 130),
        ("KeyboardInterrupt", 130),
        ("SomethingElse", 1),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    site.install("boom", RAISING)
    monkeypatch.setenv("AGL_PLUGINS", "boom")
    done = agl("boom", name)
    assert done.code == code
    assert done.out == ""
    assert done.err.strip().startswith("error: ")
    assert len(done.err.strip().splitlines()) == 1
    if hasattr(errors, name):
        assert done.err.strip() == "error: what happened"


def test_an_unexpected_error_says_how_to_get_the_traceback(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("boom", RAISING)
    monkeypatch.setenv("AGL_PLUGINS", "boom")
    done = agl("boom", "Else")
    assert done.err == "error: RuntimeError: what happened; for the traceback run: agl --debug boom Else\n"
    assert "Traceback" in agl("--debug", "boom", "Else").err


def test_with_json_an_error_is_the_last_line_of_stdout(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("boom", RAISING)
    monkeypatch.setenv("AGL_PLUGINS", "boom")
    done = agl("boom", "ConfigError", "--json")
    assert done.json == {"error": {"type": "ConfigError", "message": "what happened", "exit_code": 2}}
    assert agl("boom", "--json", "--nonsense").json["error"]["exit_code"] == 2
    assert agl("boom", "ConfigError", "--", "--json").out == ""


def test_wrong_usage_names_the_nearest_and_where_to_read(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = agl("plugins", "--jsn")
    assert done.code == 2
    assert "--json" in done.err
    assert "agl plugins --help" in done.err
    done = agl("trian")
    assert done.code == 2
    assert "did you mean 'train'" in done.err
    assert "pip install lightning-plugin-server" in agl("serve").err
    site.install("boom", RAISING)
    monkeypatch.setenv("AGL_PLUGINS", "boom")
    assert "not a click.Command" in agl("not-one").err


def test_a_named_plugin_that_is_broken_leaves_help_and_doctor_alive(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("bad", "1 / 0")
    monkeypatch.setenv("AGL_PLUGINS", "bad")
    done = agl("--help")
    assert done.code == 0
    assert "only built-in commands are listed: plugin 'bad' from 'dist-bad'" in done.err
    assert agl("plugins").code == 2
    done = agl("doctor", "--json")
    assert done.code == 1
    assert [check["health"] for check in done.json["checks"] if check["name"] == "plugins"] == ["broken"]


def test_plugins_are_listed_with_what_they_provide_and_why_they_are_skipped(
    agl: Agl, site: Site, monkeypatch: pytest.MonkeyPatch, algorithm_plugin: Callable[..., str]
) -> None:
    site.install("mine", algorithm_plugin("evolution"), distribution="my-dist", version="7.1")
    site.install("denied", algorithm_plugin())
    monkeypatch.setenv("AGL_PLUGINS", "mine,denied")
    monkeypatch.setenv("AGL_DISABLE", "denied")
    out = agl("plugins").out
    assert "my-dist" in out
    assert "algorithm: evolution" in out
    assert "disabled by AGL_DISABLE" in out
    listed = {one["name"]: one for one in agl("plugins", "--json").json}
    assert listed["mine"]["version"] == "7.1"
    assert listed["mine"]["provides"] == ["algorithm evolution"]
    assert listed["denied"]["status"] == "disabled"


def test_config_shows_every_value_and_where_it_came_from(
    agl: Agl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "agl.toml").write_text("seed = 4\n")
    monkeypatch.setenv("AGL_CONCURRENCY", "7")
    done = agl("config", "--set", "budget.rollouts=9", "--json")
    assert done.json["file"] == "agl.toml"
    assert done.json["config"]["seed"] == 4
    sources = done.json["sources"]
    assert sources["seed"] == "file agl.toml:1"
    assert sources["concurrency"] == "env AGL_CONCURRENCY"
    assert sources["budget.rollouts"] == "flag --set budget.rollouts"
    assert sources["model"] == "default"
    text = agl("config").out
    assert "env AGL_CONCURRENCY" in text
    assert "AGL_PLUGINS" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--train", "x.jsonl"], "there is no agent to work with; name one as TARGET"),
        (["train", "a.py:x"], "there are no training tasks; name a file of them with --train FILE"),
        (["train", "a.py:x", "--train", "missing.jsonl"], "'missing.jsonl' cannot be read"),
        (["train", "a.py:x", "--set", "sede=1"], "did you mean 'seed'"),
        (
            ["train", "a.py:x", "--set", "algorithms.evolutoin.x=1"],
            "no installed plugin provides the algorithm",
        ),
        (["train", "a.py:x", "--config", "missing.toml"], "'missing.toml' cannot be read"),
        (["train", "a.py:x", "--upstream", "nonsense"], "api_key_env=EXAMPLE_KEY', got 'nonsense'"),
        (["train", "a.py:x", "--seed", "x"], "'x' is not a valid integer"),
        (["eval", "a.py:x"], "--data"),
        (["run", "a.py:x"], "TASK"),
        (["runs", "--store", "sqlite:///missing.db"], "there is no store 'sqlite:///missing.db'"),
        (["runs", "--store", "nonsense://x"], "nonsense"),
        (["rollouts", "show", "x"], "there is no store 'sqlite:///agl.db'"),
    ],
)
def test_a_mistake_is_one_clear_line(agl: Agl, arguments: list[str], message: str) -> None:
    done = agl(*arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert agl(*arguments, "--json").json["error"]["exit_code"] == 2


def test_looking_at_a_store_that_is_not_there_creates_none(agl: Agl, folder: Path) -> None:
    agl("runs")
    assert list(folder.iterdir()) == []


def run_agl(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from agentlightning.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "AGL_PLUGINS": "core", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_in_a_process_of_its_own_a_plugin_is_discovered_and_a_broken_one_skipped_with_one_line(
    folder: Path, site: Site, algorithm_plugin: Callable[..., str]
) -> None:
    site.install("mine", algorithm_plugin("evolution"))
    site.install("bad", "1 / 0")
    denied = {"AGL_PLUGINS": "", "PYTHONPATH": str(site.path)}
    done = run_agl("plugins", "--json", cwd=folder, **denied)
    assert done.returncode == 0
    listed = {one["name"]: one for one in json.loads(done.stdout)}
    assert listed["mine"]["provides"] == ["algorithm evolution"]
    assert listed["bad"]["reason"] == "ZeroDivisionError: division by zero"
    assert "skipped the plugin 'bad' from 'dist-bad'" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_goes_to_a_pipe_has_no_colours(folder: Path) -> None:
    done = run_agl("plugins", cwd=folder)
    assert "core" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_encoding_of_a_stream_lacks_costs_no_result(folder: Path, encoding: str) -> None:
    code = "import sys; from agentlightning.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "config", "--set", "model=näme…😀"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"me" in done.stdout
    assert b"model" in done.stdout


def test_a_closed_stdout_is_no_error(agl: Agl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["plugins"]) == 0
    sys.stdout.close()


def test_a_folder_is_no_store(agl: Agl, folder: Path) -> None:
    for url in ("sqlite:////", f"sqlite:///{folder}"):
        done = agl("runs", "--store", url)
        assert (done.code, f"{url!r} is a folder" in done.err) == (2, True), done.err
