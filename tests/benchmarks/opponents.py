"""Environments of opponents: each in a folder of its own, made on first use below `AGL_BENCH_OPPONENTS`.

What cannot be installed here raises `Missing` with the reason; its ratios are left out, never invented.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
_COMPLETE: Final = "agl-complete"  # written last: an environment without it was cut short
_INSTALL_TIMEOUT_S: Final = 900
_Commands: TypeAlias = list[list[str]]


_OFFLINE: Final = (("LITELLM_LOCAL_MODEL_COST_MAP", "True"),)  # else each import tries to download prices


class Missing(Exception):
    """An opponent cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Opponent:
    """What to install.

    Attributes:
        name: Folder of its environment.
        requirement: Exact version.
        pythons: Versions of Python that it runs on, the best first.
        beside: What else it needs.
        variables: Of the environment that it runs in.
        not_after: Newest day of what it depends on, where later releases break it; ignored where the index cannot tell.
    """

    name: str
    requirement: str
    pythons: tuple[str, ...]
    not_after: str | None = None
    beside: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def requirements(self) -> tuple[str, ...]:
        """All that is installed by name."""
        return (self.requirement, *self.beside)

    @property
    def environment(self) -> dict[str, str]:
        """What it runs with."""
        return dict(self.variables)

    @property
    def bin(self) -> Path:
        """Where its programs are.

        Raises:
            Missing: It cannot be installed.
        """
        return _installed(self) / "bin"


AL03: Final = Opponent(
    "al03", "agentlightning==0.3.0", ("3.11", "3.12"), not_after="2026-01-05", variables=_OFFLINE
)
AL10: Final = Opponent("al10", "agentlightning==1.0.2", ("3.12", "3.13"))
FLOOR: Final = Opponent("floor", "uvloop==0.22.1", ("3.11", "3.12", "3.13"), beside=("orjson==3.11.5",))
"""What the fastest Python on a socket is written with."""


@cache
def _installed(opponent: Opponent) -> Path:
    root = os.environ.get("AGL_BENCH_OPPONENTS") or ROOT / ".nox" / "opponents"
    folder = Path(root).absolute() / opponent.name
    mark = folder / _COMPLETE
    if mark.exists() and mark.read_text() == " ".join(opponent.requirements):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = _interpreter(opponent)
    print(f"installing {opponent.requirement} into an environment of its own, once", file=sys.stderr)
    errors: list[str] = []
    for commands in _ways(opponent, folder=folder, python=python):
        shutil.rmtree(folder, ignore_errors=True)
        error = _first_error(commands)
        if error is None:
            mark.write_text(" ".join(opponent.requirements))
            return folder
        errors.append(error)
    shutil.rmtree(folder, ignore_errors=True)
    raise Missing(f"{opponent.requirement} cannot be installed: {'; '.join(errors)}")


def _ways(opponent: Opponent, *, folder: Path, python: str) -> Iterator[_Commands]:
    """Commands that make the environment, the best way first."""
    inside = str(folder / "bin" / "python")
    uv = shutil.which("uv")
    if uv is not None:
        make = [uv, "venv", "--quiet", "--python", python, str(folder)]
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", inside]
        if opponent.not_after is not None:
            yield [make, [*install, "--exclude-newer", opponent.not_after, *opponent.requirements]]
        yield [make, [*install, *opponent.requirements]]
    yield [
        [python, "-m", "venv", str(folder)],
        [inside, "-m", "pip", "install", "--quiet", *opponent.requirements],
    ]


def _first_error(commands: _Commands) -> str | None:
    # uv reads none of pip's settings
    links = ",".join(os.environ.get("PIP_FIND_LINKS", "").split())
    environment = ({"UV_FIND_LINKS": links} if links else {}) | os.environ
    for command in commands:
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_INSTALL_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return (done.stderr or done.stdout).strip()[-500:]
    return None


def _interpreter(opponent: Opponent) -> str:
    for version in opponent.pythons:
        for candidate in _candidates(version):
            if _runs(candidate, version):
                return candidate
    raise Missing(f"{opponent.requirement} needs Python {' or '.join(opponent.pythons)}, and none is here")


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for place in (pyenv / "versions", Path.home() / ".local/share/uv/python"):
        yield from map(str, sorted(place.glob(f"*{version}*/bin/python{version}")))


def _runs(python: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version
