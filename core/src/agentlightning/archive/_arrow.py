"""pyarrow, which only some archives need: imported late, with word of how to install it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from agentlightning.errors import MissingExtra


def arrow_module(name: str = "pyarrow") -> ModuleType:
    """A module of pyarrow.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            "archives with the layout 'parquet' need pyarrow, which is not installed;"
            " run: pip install 'agentlightning-core[parquet]', or choose --format jsonl"
        ) from error
