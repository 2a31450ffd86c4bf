"""The plugin of `docs/how-to/write-a-plugin.md`: written elsewhere, installed with pip, trained with by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import generate
import pytest

PAGE = generate.ROOT / "docs/how-to/write-a-plugin.md"
AGENT = '''"""An agent whose reward depends on the prompt it is given."""

import agentlightning as agl


@agl.agent
def solve(task: dict) -> float:
    return float(task["word"] in agl.prompt("system").template)
'''


def block(language: str) -> str:
    """The one block of a language on the page."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def run(*command: str, folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, with one more folder to import from."""
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin; nothing of it lies in the repository."""
    source = tmp_path_factory.mktemp("best-prompt")
    site = tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(block("toml"))
    (source / "best_prompt.py").write_text(block("python"))
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    )
    done = run(*pip, "--target", str(site), str(source), folder=source, path=site)
    assert done.returncode == 0, done.stderr
    return site


def agl(*arguments: str, folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """The `agl` of this environment, with the plugin installed beside it."""
    return run(str(Path(sys.executable).with_name("agl")), *arguments, folder=folder, path=site)


def test_the_algorithm_is_at_most_forty_lines() -> None:
    assert len(block("python").splitlines()) <= 40


def test_the_installed_plugin_is_listed(site: Path, tmp_path: Path) -> None:
    listed = agl("plugins", "--json", folder=tmp_path, site=site)
    assert listed.returncode == 0, listed.stderr
    (plugin,) = [one for one in json.loads(listed.stdout) if one["name"] == "best-prompt"]
    assert plugin["status"] == "loaded"
    assert plugin["distribution"] == "best-prompt"
    assert plugin["provides"] == ["algorithm best-prompt"]


def test_training_with_it_by_name_makes_the_better_prompt_live(site: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "tasks.jsonl").write_text('{"word": "brief"}\n{"word": "kind"}\n')
    prompts = "algorithms.best-prompt.prompts=['Be brief.', 'Be brief and kind.', 'Be loud.']"
    options = ["--train", "tasks.jsonl", "--store", "sqlite:///runs.db", "--set", prompts]
    trained = agl(
        "train",
        "agent.py:solve",
        "--algorithm",
        "best-prompt",
        *options,
        "--json",
        folder=tmp_path,
        site=site,
    )
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert result["status"] == "succeeded"
    evaluated = agl(
        "eval",
        "agent.py:solve",
        "--data",
        "tasks.jsonl",
        "--store",
        "sqlite:///runs.db",
        "--json",
        folder=tmp_path,
        site=site,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["mean"] == 1.0


def test_a_mistyped_setting_of_it_is_refused_with_the_right_name(site: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "tasks.jsonl").write_text('{"word": "brief"}\n')
    options = ["--train", "tasks.jsonl", "--set", "algorithms.best-prompt.promts=[]"]
    refused = agl(
        "train", "agent.py:solve", "--algorithm", "best-prompt", *options, folder=tmp_path, site=site
    )
    assert refused.returncode == 2
    assert "did you mean 'prompts'?" in refused.stderr
