"""Templates: fields of the task go where they are named, once, and everything else stays as it is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.command._template import NAMES, check, fill
from agentlightning.errors import ConfigError

VALUES = {"task": {"question": "2+2", "of": {"depth": [1, 2]}, "no": None}, "model": None, "seed": 7}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{task.question}", "2+2"),
        ("a {task.of} b", 'a {"depth":[1,2]} b'),
        ("{task.of.depth}{seed}", "[1,2]7"),
        ("[{model}{task.no}]", "[]"),
        ('{"json": {}} {1} { task } ${} {a b}', '{"json": {}} {1} { task } ${} {a b}'),
        ("{{task}} {{anything.else}}", "{task} {anything.else}"),
        ("awk '{print $1}'", "awk '{print $1}'"),
    ],
)
def test_fields_are_filled_in_and_the_rest_is_left_alone(template: str, text: str) -> None:
    check(template, of="the argument")
    assert fill(template, VALUES) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{tsak}", "did you mean {task}"),
        ("{HOME}", "there are attempt_id"),
        ("{model.name}", "means nothing"),
        ("{{task}", "write {task} to have it filled in"),
        ("{task}}", "write {task} to have it filled in"),
        ("a\0b", "NUL"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_runs(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(template, of="the argument")


def test_there_is_no_way_to_put_a_key_into_an_argument() -> None:
    assert not any("key" in name or "token" in name for name in NAMES)


@pytest.mark.parametrize(("task", "found"), [({"a": 1}, "has 'a'"), ("text", "is 'text'")])
def test_a_field_that_the_task_lacks_is_named_with_what_it_has(task: object, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        fill("{task.question}", {"task": task})  # type: ignore[dict-item]


@given(st.text(), st.text(), st.text())
def test_what_is_filled_in_is_not_looked_at_again(before: str, task: str, after: str) -> None:
    """A task that looks like a template is still only data."""
    before, after = before.replace("{", "").replace("}", ""), after.replace("{", "").replace("}", "")
    assert fill(before + "{task}" + after, {"task": task, "seed": 1}) == before + task + after


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_values_that_are_no_text_are_json(value: object) -> None:
    text = fill("{task.x}", {"task": {"x": value}})  # type: ignore[dict-item]
    if value is None:
        assert text == ""
    else:
        assert text == value if isinstance(value, str) else msgspec.json.decode(text) == value
