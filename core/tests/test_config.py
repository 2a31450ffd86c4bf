from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.budget import Budget
from agentlightning.config import RunConfig, decode_params, load_config, read_tasks
from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream, Sampling


class Params(msgspec.Struct, frozen=True, kw_only=True):
    learning_rate: float = 0.1
    steps: int = 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# parameters of plugins


def test_parameters_become_a_typed_section() -> None:
    assert decode_params({"steps": 5}, Params, where="algorithm 'x'") == Params(steps=5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rat": 1.0}, "algorithm 'x' has no setting 'learning_rat'; did you mean 'learning_rate'?"),
        ({"zzz": 1}, "valid are learning_rate, steps"),
        ({"steps": "many"}, "algorithm 'x': Expected `int`, got `str`"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_params(params, Params, where="algorithm 'x'")
    assert message in str(caught.value)


# layers


def test_without_anything_said_the_defaults_are_in_effect(folder: Path) -> None:
    found = load_config(environ={})
    assert found.config == RunConfig()
    assert {setting.source for setting in found.settings()} == {"default"}


def test_flags_win_over_the_environment_and_that_over_the_file(folder: Path) -> None:
    file = written(folder, "seed = 1\nconcurrency = 1\nmodel = 'file'\n")
    environ = {"AGL_CONCURRENCY": "2", "AGL_MODEL": "env"}
    found = load_config(file, environ, flags={"model": "flag", "engine": None})
    assert (found.config.seed, found.config.concurrency, found.config.model) == (1, 2, "flag")
    sources = {setting.name: setting.source for setting in found.settings()}
    assert sources["seed"] == f"file {file}:1"
    assert sources["concurrency"] == "env AGL_CONCURRENCY"
    assert sources["model"] == "flag --model"
    assert sources["engine"] == "default"


def test_tables_are_merged_setting_by_setting(folder: Path) -> None:
    file = written(folder, "[algorithms.apo]\nrounds = 2\nbeam = 4\n")
    environ = {"AGL_ALGORITHMS__APO__BEAM": "5"}
    found = load_config(file, environ, assignments=["algorithms.apo.tag=x"])
    assert found.config.algorithms == {"apo": {"rounds": 2, "beam": 5, "tag": "x"}}


def test_every_form_of_a_setting_can_be_written_in_the_file(folder: Path) -> None:
    file = written(
        folder,
        """
        target = "agent.py:solve"
        algorithm = ["sft", "lightningrl"]
        timeout_s = 5
        budget.rollouts = 10
        [gateway.upstreams."gpt-4.1"]
        base_url = "http://127.0.0.1:1/v1"
        [sampling.train]
        temperature = 1
        [pipeline]
        stages = ["join", "order"]
        params.credit.discount = 0.9
        """,
    )
    config = load_config(file, {}).config
    assert config.algorithm == ("sft", "lightningrl")
    assert config.budget == Budget(rollouts=10)
    assert config.gateway.upstreams == {"gpt-4.1": HttpUpstream(base_url="http://127.0.0.1:1/v1")}
    assert config.sampling.train == Sampling(temperature=1.0)
    assert config.pipeline.stages == ("join", "order")
    assert config.pipeline.params == {"credit": {"discount": 0.9}}
    assert config.timeout_s == 5.0


def test_the_file_in_the_working_directory_is_read_unless_another_is_named(folder: Path) -> None:
    written(folder, "seed = 1\n", "agl.toml")
    other = written(folder, "seed = 2\n", "other.toml")
    assert load_config(environ={}).config.seed == 1
    assert load_config(environ={"AGL_CONFIG": str(other)}).config.seed == 2
    assert load_config(other, {"AGL_CONFIG": "missing"}).config.seed == 2


def test_a_file_of_an_editor_that_marks_its_encoding_is_read(folder: Path) -> None:
    assert load_config(written(folder, "\ufeffseed = 1\n"), {}).config.seed == 1


def test_a_list_may_be_one_name_or_several_with_commas(folder: Path) -> None:
    assert load_config(environ={"AGL_GRADERS": "a, b"}).config.graders == ("a", "b")
    assert load_config(written(folder, "algorithm = 'apo'"), {}).config.algorithm == ("apo",)
    assert load_config(environ={}, assignments=['graders=["x:y", "z"]']).config.graders == ("x:y", "z")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("engines.torch.a=1", 1),
        ("engines.torch.a=1e-4", 1e-4),
        ("engines.torch.a=true", True),
        ("engines.torch.a='1'", "1"),
        ("engines.torch.a=[1, 2]", [1, 2]),
        ("engines.torch.a=plain text", "plain text"),
        ("engines.torch.a=x=y", "x=y"),
        ("engines.torch.a = 7 ", 7),
        ("engines.torch.a=", ""),
        ("engines.torch.a=1\nb=2", "1\nb=2"),
    ],
)
def test_assignments_are_read_as_toml_and_else_as_text(
    folder: Path, assignment: str, expected: object
) -> None:
    assert load_config(environ={}, assignments=[assignment]).config.engines == {"torch": {"a": expected}}


def test_a_text_setting_stays_text_whatever_it_looks_like(folder: Path) -> None:
    found = load_config(environ={"AGL_MODEL": "123"}, assignments=["target=true", "engines.torch={a = 1}"])
    assert (found.config.model, found.config.target) == ("123", "true")
    assert found.config.engines == {"torch": {"a": 1}}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AGL_SEDE": "1"}, "'AGL_SEDE' is unknown: there is no setting 'sede'; did you mean 'seed'"),
        ({"AGL_GATEWAY__PROT": "1"}, "did you mean 'gateway.port'"),
        ({"AGL_SEED__X": "1"}, "'seed' is a single value"),
        ({"AGL_SEED": "x"}, "seed: expected int, got 'x' (env AGL_SEED)"),
        ({"AGL_CONCURRENCY": "0"}, "concurrency: expected int >= 1, got 0 (env AGL_CONCURRENCY)"),
    ],
)
def test_the_environment_is_checked(folder: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ=environ)
    assert message in str(caught.value)


def test_switches_and_other_programs_variables_are_left_alone(folder: Path) -> None:
    environ = {
        "AGL_PLUGINS": "x",
        "AGL_DISABLE": "y",
        "AGL_TRACE_PLUGINS": "1",
        "AGL_KEY": "k",
        "AGLX": "1",
        "A": "",
    }
    assert load_config(environ=environ).config == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nsede = 2\n", "run.toml:2: there is no setting 'sede'; did you mean 'seed'?"),
        (
            "[gateway]\nport = 1\n[gatway]\nport = 1\n",
            "run.toml:3: there is no setting 'gatway'; did you mean 'gateway'",
        ),
        (
            "[budget]\nrolouts = 1\n",
            "run.toml:2: there is no setting 'budget.rolouts'; did you mean 'budget.rollouts'",
        ),
        ("seed = \n", "(at line 1, column 8)"),
        ("seed = 'x'\n", "seed: expected int, got 'x' (file "),
        ("[gateway]\nport = 70000\n", "gateway.port: expected int <= 65535, got 70000 (file "),
        ("train = 3\n", "train: expected str | null, got 3 (file "),
        ("gateway = 3\n", "gateway: expected object, got 3 (file "),
    ],
)
def test_the_file_is_checked_with_file_and_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(folder, text), {})
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'missing\.toml' cannot be read"):
        load_config(Path("missing.toml"), {})


@pytest.mark.parametrize("assignment", ["seed", "=1", "seed..x=1", ".=1"])
def test_an_assignment_needs_a_setting_and_a_value(folder: Path, assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set takes 'setting=value'"):
        load_config(environ={}, assignments=[assignment])


def test_a_setting_given_twice_by_flags_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'seed' is given twice: by flag --set seed and by flag --seed"):
        load_config(environ={}, flags={"seed": 1}, assignments=["seed=1"])
    with pytest.raises(ConfigError, match="'seed' twice"):
        load_config(environ={}, assignments=["seed=1", "seed=2"])


def test_the_agent_is_a_target_or_a_command_whichever_is_said_later(folder: Path) -> None:
    file = folder / "agl.toml"
    file.write_text('[agent]\ncommand = "cat {task}"\n')
    found = load_config(file, {})
    assert (found.config.target, found.config.agent) == (f"{file}:agent", {})
    assert {one.name: one.source for one in found.settings()}["target"] == f"file {file}:2"
    assert load_config(file, {"AGL_TARGET": "a:b"}).config.target == "a:b"
    changed = load_config(file, {"AGL_AGENT__COMMAND": "echo"}, assignments=["agent.timeout_s=3"]).config
    assert (changed.target, changed.agent) == ("", {"command": "echo", "timeout_s": 3})
    file.write_text('target = "a:b"\n')
    assert load_config(file, {}, flags={"agent.command": "echo"}).config.agent == {"command": "echo"}
    with pytest.raises(
        ConfigError, match=r"the agent is said twice: target = 'c:d' \(flag --target\) and a command"
    ):
        load_config(file, {}, flags={"agent.command": "echo", "target": "c:d"})


def test_the_configuration_keeps_small() -> None:
    assert len(RunConfig.__struct_fields__) <= 25


keys = st.text("abcdefgh_", min_size=1, max_size=6)
values = st.one_of(
    st.integers(-(2**40), 2**40), st.booleans(), st.text(max_size=20), st.lists(st.integers(0, 9))
)


@settings(max_examples=60)
@given(st.dictionaries(keys, values, min_size=1, max_size=4))
def test_a_parameter_written_as_toml_arrives_as_it_was(params: dict[str, object]) -> None:
    # JSON of these types is TOML, but for DEL and lone surrogates
    texts = {key: json.dumps(value) for key, value in params.items()}
    readable = {}
    for key, text in texts.items():
        try:
            tomllib.loads(f"x = {text}")
        except tomllib.TOMLDecodeError:
            continue
        readable[key] = text
    assignments = [f"algorithms.x.{key}={text}" for key, text in readable.items()]
    found = load_config(Path("/dev/null"), {}, assignments=assignments).config.algorithms.get("x", {})
    assert found == {key: params[key] for key in readable}


@settings(max_examples=60)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_assignment_is_used_or_refused_with_a_reason(name: str, value: str) -> None:
    with suppress(ConfigError):
        load_config(Path("/dev/null"), {}, assignments=[f"{name}={value}"])


# tasks


def test_each_line_of_jsonl_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes('\ufeff{"a": 1}\n\n"text with \u2028 in it"\r\n[1, null]'.encode())
    assert read_tasks(path) == [{"a": 1}, "text with \u2028 in it", [1, None]]


def test_each_row_of_csv_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text('question,answer\r\n"1, 2\nand 3?",6\n\nx,\n', newline="")
    assert read_tasks(str(path)) == [
        {"question": "1, 2\nand 3?", "answer": "6"},
        {"question": "x", "answer": ""},
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.jsonl", b'{"a": 1}\n\n{"a": }\n', "t.jsonl:3 is not JSON"),
        ("t.jsonl", b'{"a": NaN}\n', "t.jsonl:1 is not JSON"),
        ("t.jsonl", b'"\xff"\n', "t.jsonl:1 is not JSON"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl:1 is not JSON"),
        ("t.jsonl", b"\n \n", "holds no task"),
        ("t.csv", b"", "holds no task"),
        ("t.csv", b"a,b\n", "holds no task"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "t.csv:3 has 3 values, the header names 2"),
        ("t.csv", b"a,a\n1,2\n", "t.csv:1 is no header"),
        ("t.csv", b"a,b\n1,2\n\xff,2\n", "t.csv:3 is not UTF-8"),
        ("t.csv", b'a,b\n"1,2\n', "is not CSV"),
        ("t.parquet", b"", "Parquet is not read; install pandas with pyarrow and convert it"),
        ("t.txt", b"", ".csv, .jsonl, .ndjson are read"),
    ],
)
def test_a_file_that_holds_no_tasks_is_refused_with_the_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_tasks(path)
    assert message in str(caught.value)


def test_a_file_of_tasks_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_tasks(tmp_path / "missing.jsonl")
