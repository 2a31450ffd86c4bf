"""A directory of an attempt's own: made, filled with a fresh copy of a folder, and removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from agentlightning.errors import AgentError, ConfigError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def make_place(parent: Path | None) -> Path:
    """Makes an empty directory that only this user can read; None is the system's place for temporary files.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="agl-attempt-", dir=parent))
    except OSError as error:
        raise ConfigError(f"no directory for an attempt can be made in {str(parent)!r}: {error}") from error


def fill_place(place: Path, folder: Path | None, *, files: Mapping[str, str]) -> None:
    """Makes the working directory, `work`, and those for a command's own files, `home` and `tmp`.

    Args:
        folder: What `work` is a copy of, links staying links; None leaves it empty.
        files: Contents by path, written over the copy.

    Raises:
        ConfigError: The folder cannot be copied or a file not be written.
    """
    work = place / "work"
    try:
        for name in ("home", "tmp"):
            (place / name).mkdir()
        if folder is None:
            work.mkdir()
        else:
            shutil.copytree(folder, work, symlinks=True)
        for name, text in files.items():
            path = within(work, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
    except shutil.Error as error:
        reasons = "; ".join(str(entry[2]) for entry in error.args[0][:3])
        raise ConfigError(f"the folder {str(folder)!r} cannot be copied for an attempt: {reasons}") from error
    except OSError as error:
        source = f" from {str(folder)!r}" if folder else ""
        raise ConfigError(f"the working directory of an attempt cannot be filled{source}: {error}") from error


def remove_place(place: Path) -> None:
    """Removes it with all that is in it, whatever its command did to permissions.

    Raises:
        OSError: It cannot be removed.
    """
    try:
        shutil.rmtree(place)
    except PermissionError:
        for directory, names, _ in os.walk(place):
            for name in names:
                path = Path(directory, name)
                if not path.is_symlink():
                    path.chmod(stat.S_IRWXU)
        shutil.rmtree(place)
    except FileNotFoundError:
        pass


def within(work: Path, name: str) -> Path:
    """A path in the working directory.

    Raises:
        AgentError: A link leads out of it.
    """
    path = work / name
    if not path.resolve().is_relative_to(work.resolve()):
        raise AgentError(f"the file {name!r} is a link out of the working directory; write a plain file")
    return path


def read_bounded(path: Path, *, limit: int) -> bytes:
    """A plain file's content.

    Raises:
        AgentError: There is none, it is no plain file, or it is larger than `limit` bytes.
    """
    try:
        # a pipe in the file's place must not hold the runner up
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AgentError(
            f"the command wrote no result file {path.name!r} that can be read: {error.strerror}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AgentError(f"the result file {path.name!r} is no plain file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise AgentError(
            f"the result file {path.name!r} has more than {limit} bytes; raise max_output_bytes or write less"
        )
    return content


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Runs it in a thread, to its end: a cancelled caller does not leave it behind."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
