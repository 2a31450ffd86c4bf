"""What every package has: the same files, a name that follows from its folder, and live entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, distribution

import generate
import pytest

PACKAGES = generate.packages()
KINDS = {"plugins": "plugin", "adapters": "adapter", "algorithms": "algorithm"}
INSTALLED = [package for package in PACKAGES if not package.isolated]
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
ENTRY_POINTS = [
    pytest.param(entry_point, id=f"{package.name}-{entry_point.group}-{entry_point.name}")
    for package in INSTALLED
    for entry_point in distribution(package.name).entry_points
]


@each_package
def test_the_name_follows_from_the_folder(package: generate.Package) -> None:
    folder = package.path.name.replace("_", "-")
    expected = (
        "agentlightning-core" if package.kind == "core" else f"lightning-{KINDS[package.kind]}-{folder}"
    )
    assert package.name == expected
    assert package.src.is_dir()


@each_package
def test_a_package_has_its_files(package: generate.Package) -> None:
    missing = [name for name in ("README.md", "CHANGELOG.md", "tests") if not (package.path / name).exists()]
    assert missing == []
    assert (package.src / "py.typed").exists()


@each_package
def test_the_readme_is_short(package: generate.Package) -> None:
    assert len((package.path / "README.md").read_text().splitlines()) <= 60


@each_package
def test_the_changelog_knows_the_version(package: generate.Package) -> None:
    assert f"## {package.project['version']}" in (package.path / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", INSTALLED, ids=lambda package: package.name)
def test_a_package_registers_through_an_entry_point(package: generate.Package) -> None:
    declared = {
        (entry.group, entry.name, entry.value)
        for entry in distribution(package.name).entry_points
        if entry.group == "agentlightning"
    }
    module = "agentlightning.builtin" if package.kind == "core" else f"{package.import_name}.hooks"
    assert declared == {("agentlightning", package.path.name, module)}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_an_entry_point_loads(entry_point: EntryPoint) -> None:
    assert entry_point.load() is not None
