"""Import strings lead to the object they name, or say why not."""

from pathlib import Path

import pytest

from agentlightning.errors import TargetError
from agentlightning.targets import load_target, target_of


def test_a_module_target_is_imported() -> None:
    assert load_target("json:dumps").__name__ == "dumps"  # type: ignore[attr-defined]


def test_a_file_target_is_imported_once_and_can_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "agl_test_neighbour.py").write_text("VALUE = 7\n")
    file = tmp_path / "my_agent.py"
    file.write_text("from agl_test_neighbour import VALUE\nclass Box:\n    def solve(self): return VALUE\n")
    box = load_target(f"{file}:Box")
    assert box is load_target(f"{file}:Box")
    assert load_target(f"{file}:Box.solve")(box()) == 7  # type: ignore[operator]


def test_the_import_string_of_a_loaded_object_leads_back_to_it(tmp_path: Path) -> None:
    file = tmp_path / "other_agent.py"
    file.write_text("def solve(task): return task\n")
    solve = load_target(f"{file}:solve")
    target = target_of(solve)
    assert target is not None
    assert load_target(target) is solve


def test_objects_without_a_place_have_no_import_string() -> None:
    assert target_of(lambda task: task) is None
    assert target_of(object()) is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("solve", "write 'module:object'"),
        ("missing.py:solve", "there is no file"),
        ("no_such_module_agl:solve", "cannot be imported"),
        ("json:nothing", "has no 'nothing'"),
    ],
)
def test_a_wrong_target_says_what_is_wrong(target: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load_target(target)


def test_a_file_that_fails_on_import_is_named_with_its_error(tmp_path: Path) -> None:
    file = tmp_path / "broken_agent.py"
    file.write_text("import agl_missing_dependency\n")
    with pytest.raises(TargetError, match="agl_missing_dependency"):
        load_target(f"{file}:solve")
