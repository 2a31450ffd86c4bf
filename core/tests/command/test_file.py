"""Commands are named in a file of the runner's, as agents of other kinds are."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlightning.command import CommandAgent, Result
from agentlightning.errors import ConfigError, TargetError
from agentlightning.targets import load_target

FILE = """
[echo]
argv = ["cat", "in.json"]
folder = "project"
files = { "in.json" = "{task}" }
result = "json"
timeout_s = 20

[line]
command = "python3 -c 'print(1)' \\"{task}\\""
[both]
command = "cat"
argv = ["cat"]
[open]
command = "cat 'x"

[wrong]
argv = ["cat"]
result = "xml"
[misspelt]
argv = ["cat"]
time_out = 3
[missing]
stdin = ""
[absent]
argv = ["agl-no-such-program"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    file = tmp_path / "agents.toml"
    file.write_text(FILE)
    return file


async def test_a_command_is_a_target_with_the_folder_beside_its_file(file: Path) -> None:
    agent = load_target(f"{file}:echo")
    assert isinstance(agent, CommandAgent)
    assert (agent.result, agent.folder) == (Result.JSON, str(file.parent / "project"))
    assert await agent({"a": [1]}) == {"a": [1]}


def test_a_command_may_be_one_line_with_quotes(file: Path) -> None:
    agent = load_target(f"{file}:line")
    assert isinstance(agent, CommandAgent)
    assert agent.argv == ["python3", "-c", "print(1)", "{task}"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nobody", TargetError, "no command 'nobody'; it has absent, both, echo, line, missing"),
        ("both", ConfigError, "has command and argv, which are the same; leave one out"),
        ("open", ConfigError, 'the command "cat \'x" cannot be read: No closing quotation'),
        ("wrong", ConfigError, "Invalid enum value 'xml'"),
        ("misspelt", ConfigError, "no setting 'time_out'; did you mean 'timeout_s'"),
        ("missing", ConfigError, "missing required field `argv`"),
        ("absent", TargetError, "no program 'agl-no-such-program'"),
    ],
)
def test_what_cannot_be_used_says_why(file: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_target(f"{file}:{name}")


def test_files_that_are_none_say_so(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is no file"):
        load_target("nowhere.toml:x")
    (tmp_path / "bad.toml").write_text("argv = [")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_target(f"{tmp_path}/bad.toml:x")
    (tmp_path / "flat.toml").write_text("argv = ['cat']")
    with pytest.raises(ConfigError, match=r"write the table \[argv\]"):
        load_target(f"{tmp_path}/flat.toml:argv")
