"""Compositions as they are asked for: in Python, as text, and from configuration."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentlightning as agl
from agentlightning.compose import Plan, plan_of
from agentlightning.config import load_config
from agentlightning.errors import ConfigError
from agentlightning.types import Json


def test_compositions_nest_and_keep_what_each_part_is_given() -> None:
    plan = agl.sequence(
        ("sft", {"epochs": 2}),
        agl.together(
            agl.part("lightningrl", {"updates": 5}, agents=["writer"]), "decisions", resources=["x"]
        ),
    )
    assert plan.title == "sft+lightningrl+decisions"
    sft, together = plan.parts
    assert (sft.name, sft.params) == ("sft", {"epochs": 2})
    assert together.parts[0].agents == ("writer",)
    assert together.resources == ("x",)
    assert msgspec.convert(msgspec.to_builtins(plan), Plan) == plan


def test_text_says_the_same_as_python() -> None:
    text = "sequence(sft, alternate(together(lightningrl(agents=[a, b], clip=0.1), decisions), apo, steps=5, rounds=2))"
    assert plan_of(text) == agl.sequence(
        "sft",
        agl.alternate(
            agl.together(agl.part("lightningrl", {"clip": 0.1}, agents=["a", "b"]), "decisions"),
            "apo",
            steps=5,
            rounds=2,
        ),
    )


def test_parameters_come_from_the_sections_and_what_the_text_says_wins() -> None:
    sections: dict[str, dict[str, Json]] = {"a": {"x": 1, "y": 2}, "b": {"z": 3}}
    plan = plan_of(["together(a(y=5), b)", "b"], sections=sections)
    assert [one.params for one in plan.algorithms] == [{"x": 1, "y": 5}, {"z": 3}, {"z": 3}]
    assert plan.name == "sequence"
    assert plan_of(["a"], sections=sections) == agl.part("a", {"x": 1, "y": 2})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("together(a", r"',' or '\)' should come where it ends"),
        ("together(a,,b)", "a name should come where there is ','"),
        ("together()", "together has no parts"),
        ("together(a) b", "the end should come where there is 'b'"),
        ("together(a, steps=3)", "together has no setting 'steps'; valid are agents, resources"),
        ("alternate(a, steps=0)", "steps must be a whole number of at least 1, got 0"),
        ("alternate(a, rounds=[1])", "rounds must be a whole number"),
        ("lightningrl(decisions)", "'lightningrl' is no composition and has parts"),
        ("a(agents=3)", "agents and resources of a part are names, got 3"),
        ("a(x=1, x=2)", "'x' is given twice"),
        ('together("a)', "a quote is not closed"),
        ("", "a name should come where it ends"),
    ],
)
def test_text_that_says_nothing_is_refused_with_the_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_of(text)


def test_a_composition_is_no_algorithm_and_takes_no_parameters() -> None:
    with pytest.raises(ConfigError, match=r"write agl\.together"):
        agl.part("together")
    with pytest.raises(ConfigError, match="params are those of one algorithm"):
        agl.Trainer(len, algorithm=agl.together("a", "b"), params={"updates": 1})
    with pytest.raises(ConfigError, match=r"has no parts"):
        agl.sequence()


words = st.text('ab7é-.,()=[]" \\\n', min_size=1, max_size=4)
values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
keys_and_values = st.dictionaries(
    words.filter(lambda one: one not in ("agents", "resources")), values, max_size=2
)
leaves = st.builds(
    agl.part,
    words.filter(lambda one: one not in ("sequence", "alternate", "together")),
    keys_and_values,
    agents=st.lists(words, max_size=2),
)
plans = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: agl.together(*parts))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: agl.alternate(*parts, steps=2))
    ),
    max_leaves=5,
)


def written(plan: Plan) -> str:
    def quoted(value: Json) -> str:
        return msgspec.json.encode(value).decode()

    inner = [written(one) for one in plan.parts]
    inner += [f"{quoted(key)}={quoted(value)}" for key, value in plan.params.items()]
    inner += [f"agents={quoted(plan.agents)}"] if plan.agents else []
    return f"{quoted(plan.name)}({', '.join(inner)})"


@settings(deadline=None, max_examples=60)
@given(plans)
def test_every_plan_can_be_written_and_read_again(plan: Plan) -> None:
    assert plan_of(written(plan)) == plan


@settings(deadline=None, max_examples=60)
@given(st.text('ab(),=[]" \\1', max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert plan_of(text).algorithms


def test_a_file_the_environment_and_flags_take_the_same_text(tmp_path: Path) -> None:
    file = tmp_path / "agl.toml"
    file.write_text('algorithm = "together(a, b(agents=[c, d]))"\n\n[algorithms.a]\nx = 1\n')
    expected = ("together(a, b(agents=[c, d]))",)
    found = load_config(file, {}).config
    assert found.algorithm == expected
    assert plan_of(found.algorithm, sections=found.algorithms).parts[0].params == {"x": 1}
    assert load_config(None, {"AGL_ALGORITHM": f"sft, {expected[0]}"}).config.algorithm == ("sft", *expected)
    assert load_config(None, {}, assignments=[f"algorithm={expected[0]}"]).config.algorithm == expected
