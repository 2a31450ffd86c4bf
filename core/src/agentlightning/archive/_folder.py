"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentlightning.archive._manifest import MANIFEST
from agentlightning.errors import ConfigError


@contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and goes away otherwise.

    Args:
        force: An archive that is there is replaced; anything else never is.

    Raises:
        ConfigError: Something is there already, or the folder cannot be made.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow a link and write elsewhere
    _check_free(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
        made.mkdir()
    except OSError as error:
        raise ConfigError(
            f"cannot write an archive to {str(path)!r}: {error.strerror or error}; choose another --to"
        ) from error
    try:
        yield made
        for file in made.iterdir():
            _sync(file)
        _sync(made)
        _check_free(path, force=force)
        _swap(made, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_free(path: Path, *, force: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            return
        if (path / MANIFEST).is_file():
            if force:
                return
            raise ConfigError(
                f"{str(path)!r} is there already; add --force to replace it, or choose another --to"
            )
    raise ConfigError(
        f"{str(path)!r} is there already and is no archive, so it is not replaced; choose another --to"
    )


def _swap(made: Path, path: Path) -> None:
    old = made.with_suffix(".replaced")
    had = path.exists()
    if had:
        path.rename(old)
    try:
        made.rename(path)
    except OSError:
        if had:
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
