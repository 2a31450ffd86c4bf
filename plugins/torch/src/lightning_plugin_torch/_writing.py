"""Turns what a full disk or a folder without permission raises into one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from agentlightning.errors import StoreUnavailable


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Files are written into `directory` inside the block.

    Raises:
        StoreUnavailable: They could not be; the message says why.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreUnavailable(
            f"model files cannot be written to {str(directory)!r} ({error}); free some space or name another directory"
        ) from error
