"""A task goes in as argument, input, file or variable; an output comes out of what is printed, a file or the status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentlightning.command import CommandAgent, Keep, Result
from agentlightning.errors import AgentError, ConfigError, TargetError


async def test_a_task_nobody_mentions_is_read_from_stdin() -> None:
    assert await CommandAgent(["cat"])("how much is 2+2?\n") == "how much is 2+2?"
    assert await CommandAgent(["cat"], result=Result.JSON)({"question": "ü"}) == {"question": "ü"}


async def test_a_task_can_be_an_argument_a_variable_and_a_file_and_stdin_is_empty_then() -> None:
    agent = CommandAgent(
        ["sh", "-c", 'printf "%s|%s|" "$1" "$VARIABLE"; cat in/task.txt -; pwd', "sh", "-- {task.a}"],
        environment={"VARIABLE": "v{task.b}"},
        files={"in/task.txt": "f{task.c}|"},
    )
    text = await agent({"a": "1; rm -rf $HOME", "b": 2, "c": [3]})
    assert isinstance(text, str)
    assert text.startswith("-- 1; rm -rf $HOME|v2|f[3]|/")
    assert not os.path.exists(text.rpartition("|")[2])  # noqa: ASYNC240, PTH110 - nothing waits here


async def test_a_command_that_reads_nothing_is_not_held_up_by_a_large_task() -> None:
    assert await CommandAgent(["echo", "done"], stdin="{task}")("x" * 2**20) == "done"


@pytest.mark.parametrize(
    ("result", "printed", "output"),
    [
        (Result.TEXT, "one\ntwo\n\n", "one\ntwo"),
        (Result.JSON, ' {"a": [1]}\n', {"a": [1]}),
        (Result.LAST_JSON, '{"type": "start"}\n{"type": "result"}\n\n', {"type": "result"}),
    ],
)
async def test_outputs_are_read_from_what_is_printed(result: Result, printed: str, output: object) -> None:
    assert await CommandAgent(["cat"], result=result)(printed) == output


async def test_a_result_file_is_the_output() -> None:
    agent = CommandAgent(
        ["sh", "-c", "echo chatter; mkdir out; cat > out/answer"],
        result=Result.JSON,
        result_file="out/answer",
    )
    assert await agent([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "no result file 'answer'"),
        ("ln -s /etc/passwd answer", "link out of the working directory"),
        ("ln -s other answer; echo x > other", "no result file"),
        ("mkfifo answer", "no plain file"),
        ("mkdir answer", "no plain file"),
        ("head -c 2000 /dev/zero > answer", "more than 1000 bytes"),
    ],
)
async def test_a_result_file_must_be_a_plain_small_file_of_the_attempts(script: str, message: str) -> None:
    agent = CommandAgent(["sh", "-c", script], result_file="answer", max_output_bytes=1000)
    with pytest.raises(AgentError, match=message):
        await agent(None)


@pytest.mark.parametrize(("status", "reward"), [(0, 1.0), (3, 0.0), (7, 1.0)])
async def test_the_exit_status_can_be_the_output(status: int, reward: float) -> None:
    agent = CommandAgent(["sh", "-c", "exit {task}"], result=Result.EXIT, statuses=(0, 7))
    assert await agent(status) == reward


async def test_choices_may_be_plain_text(tmp_path: Path) -> None:
    settings = {"result": "text", "keep": "always", "parent": str(tmp_path / "a")}
    assert await CommandAgent(["cat"], **settings)("[1]") == "[1]"  # type: ignore[arg-type]
    assert await CommandAgent(["false"], **settings | {"result": "exit"})(1) == 0.0  # type: ignore[arg-type]
    assert len(list((tmp_path / "a").iterdir())) == 2


async def test_a_failure_says_how_it_ended_and_its_last_words() -> None:
    with pytest.raises(
        AgentError, match=r"'sh' ended with exit status 3; .*stderr: 'no such model'.*'partial'"
    ):
        await CommandAgent(["sh", "-c", "echo partial; echo no such model >&2; exit 3"])(None)
    with pytest.raises(AgentError, match="killed by SIGSEGV; it said nothing"):
        await CommandAgent(["sh", "-c", "kill -SEGV $$"], result=Result.EXIT)(None)


async def test_output_that_is_no_json_is_quoted() -> None:
    with pytest.raises(AgentError, match=r"should be JSON and begins with 'I think"):
        await CommandAgent(["echo", "I think 4"], result=Result.JSON)(None)


async def test_what_is_printed_is_bounded_and_only_the_end_is_kept() -> None:
    noisy = "yes noise | head -c 3000000; echo; echo the end"
    with pytest.raises(AgentError, match="printed 3000009 bytes, and its output may have 1000"):
        await CommandAgent(["sh", "-c", noisy], max_output_bytes=1000)(None)
    last = CommandAgent(["sh", "-c", noisy + "; echo 1"], max_output_bytes=1000, result=Result.LAST_JSON)
    assert await last(None) == 1
    with pytest.raises(AgentError) as failure:
        await CommandAgent(["sh", "-c", f"({noisy}) >&2; exit 1"])(None)
    assert str(failure.value).endswith("the end'")
    assert len(str(failure.value)) < 3000


async def test_each_attempt_works_on_a_fresh_copy_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/run.sh").write_text("#!/bin/sh\ncat state.txt; echo changed > state.txt; chmod 0 sub\n")
    (folder / "sub/run.sh").chmod(0o755)
    (folder / "state.txt").write_text("fresh ")
    parent = tmp_path / "attempts"
    agent = CommandAgent(["sub/run.sh"], folder=str(folder), parent=str(parent))
    for _ in range(2):
        assert await agent(None) == "fresh "
    assert (folder / "state.txt").read_text() == "fresh "
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(("keep", "left"), [(Keep.NEVER, 0), (Keep.FAILED, 1), (Keep.ALWAYS, 2)])
async def test_directories_are_kept_on_request(keep: Keep, left: int, tmp_path: Path) -> None:
    agent = CommandAgent(["sh", "-c", "touch made; exit {task}"], keep=keep, parent=str(tmp_path / "a"))
    await agent(0)
    with pytest.raises(AgentError):
        await agent(1)
    assert len(list((tmp_path / "a").glob("*/work/made"))) == left


async def test_a_task_too_large_for_an_argument_says_what_to_do() -> None:
    with pytest.raises(AgentError, match="Argument list too long; hand large tasks over by stdin"):
        await CommandAgent(["echo", "{task}"])("x" * 2**20)


async def test_a_file_that_is_no_program_after_all_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("")
    program.chmod(0o755)
    program.write_bytes(b"\x7fELF-not-really")
    with pytest.raises(AgentError, match="cannot be started: Exec format error"):
        await CommandAgent([str(program)])(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"argv": "echo {task}"}, "list of words"),
        ({"argv": []}, "list of words"),
        ({"folder": "nowhere"}, "no folder 'nowhere'"),
        ({"files": {"/etc/x": ""}}, "no path within"),
        ({"result_file": "../x"}, "no path within"),
        ({"environment": {"A=B": ""}}, "no name of an environment variable"),
        ({"environment": {"A": "{b}"}}, "variable 'A'"),
        ({"result": "xml"}, "result must be one of text, json"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"grace_s": -1.0}, "grace_s"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CommandAgent(**({"argv": ["cat"]} | settings))  # type: ignore[arg-type]


def test_a_program_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("agl-no-such-program", "/no/such/program", "./run.sh"):
        with pytest.raises(TargetError, match=f"no program '{name}'"):
            CommandAgent([name])
    assert os.environ["PATH"]


def test_its_name_is_all_that_is_shown_of_it() -> None:
    assert repr(CommandAgent(["cat", "private"], environment={"X_KEY": "secret"})) == "CommandAgent('cat', …)"
