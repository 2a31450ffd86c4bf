"""Directories that servers read: there whole or not at all, and under a name never used before."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agentlightning.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Place:
    """Where a directory is written, and where it is afterwards."""

    part: Path
    final: Path


@asynccontextmanager
async def written_whole(folder: Path, *, version: int) -> AsyncIterator[Place]:
    """A place for one version; what is written to `part` inside the block is at `final` after it.

    Raises:
        StoreUnavailable: The medium is full or read-only.
    """
    final = folder / f"v{version}-{secrets.token_hex(4)}"
    part = final.with_name(f".{final.name}.part")
    try:
        part.mkdir(parents=True)
        yield Place(part, final)
        await asyncio.to_thread(_settle, part, final)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StoreUnavailable):
            raise StoreUnavailable(
                f"engine 'vllm': weights cannot be written to {str(folder)!r} ({error}); free some space or name "
                "another directory"
            ) from error
        raise


def _settle(part: Path, final: Path) -> None:
    for path in part.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    part.rename(final)
