"""`agl new`: a package of one's own to begin with, which passes its tests at once."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import click

from agentlightning.cli._options import json_option
from agentlightning.cli._output import plain, print_json, show
from agentlightning.errors import ConfigError

_TEMPLATES: Final = {
    "adapter": {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "src/lightning_adapter_$module/__init__.py": "package.py",
        "src/lightning_adapter_$module/hooks.py": "hooks.py",
        "src/lightning_adapter_$module/_adapter.py": "adapter.py",
        "src/lightning_adapter_$module/py.typed": "",
        "tests/$module.py": "framework.py",
        "tests/test_contract.py": "test_contract.py",
    },
    "algorithm": {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "src/lightning_algorithm_$module/__init__.py": "package.py",
        "src/lightning_algorithm_$module/hooks.py": "hooks.py",
        "src/lightning_algorithm_$module/_algorithm.py": "algorithm.py",
        "src/lightning_algorithm_$module/losses.py": "losses.py",
        "src/lightning_algorithm_$module/py.typed": "",
        "tests/test_contract.py": "test_contract.py",
    },
    "agent": {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "agent.py": "agent.py",
        "graders.py": "graders.py",
        "tasks.jsonl": "tasks.jsonl",
        "held_out.jsonl": "held_out.jsonl",
        "tests/test_agent.py": "test_agent.py",
    },
    "plugin": {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "src/lightning_plugin_$module/__init__.py": "package.py",
        "src/lightning_plugin_$module/hooks.py": "hooks.py",
        "src/lightning_plugin_$module/_grader.py": "grader.py",
        "src/lightning_plugin_$module/_observer.py": "observer.py",
        "src/lightning_plugin_$module/py.typed": "",
        "tests/test_plugin.py": "test_plugin.py",
    },
}
"""Files of each kind of package, and the template of each; an empty one has none."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command("new")
@click.argument("kind", type=click.Choice(sorted(_TEMPLATES)))
@click.argument("name")
@click.option("--directory", metavar="DIR", help="Folder to make; else lightning-KIND-NAME.")
@json_option
def command(*, kind: str, name: str, directory: str | None, as_json: bool) -> None:
    """Make a package of one's own that passes its tests at once.

    KIND is what it is, NAME what it is for: lower-case words with hyphens, such as my-framework.
    """
    folder = Path(directory or f"lightning-{kind}-{name}")
    written = write_package(kind, name, folder=folder)
    if as_json:
        print_json({"directory": str(folder), "files": written})
        return
    show(*map(plain, written), plain(f"next: cd {folder} && pip install -e . && pytest"))


def write_package(kind: str, name: str, *, folder: Path) -> list[str]:
    """Writes the files of a new package.

    Returns:
        Their paths in the folder.

    Raises:
        ConfigError: The name cannot be used, or the folder cannot be written or has something in it.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a package's name; take lower-case letters, digits and single hyphens, "
            f"such as my-{kind}"
        )
    words = name.split("-")
    values = {"name": name, "module": "_".join(words), "title": "".join(map(str.capitalize, words))}
    contents = {
        Template(path).substitute(values): _template(kind, template).substitute(values)
        for path, template in _TEMPLATES[kind].items()
    }
    begun = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{str(folder)!r} is not empty; name another folder with --directory")
        begun = True
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        if begun:  # what is there now is half a package, and would be in the way of the next try
            shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(
            f"cannot write to {str(folder)!r}: {error.strerror}; name another folder with --directory"
        ) from error
    return list(contents)


def _template(kind: str, name: str) -> Template:
    if not name:
        return Template("")
    found = files("agentlightning.cli") / "templates" / kind / f"{name}.txt"
    return Template(found.read_text(encoding="utf-8"))
