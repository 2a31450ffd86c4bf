"""The PostgreSQL store: one queue and log for any number of servers.

Names are loaded when they are first used, so that listing plugins imports no database driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_plugin_postgres._store import PostgresStore, open_store

__all__ = ["PostgresStore", "open_store"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("lightning_plugin_postgres._store"), name)
