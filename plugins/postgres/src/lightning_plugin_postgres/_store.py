"""`postgresql://…`: the store in a PostgreSQL database."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from agentlightning.store.backend import BackedStore, Limits, Notifier
from lightning_plugin_postgres._address import parse_address
from lightning_plugin_postgres._executor import PostgresExecutor

PATIENCE_S: Final = 15.0
"""How long the server may be away, or a row locked by somebody else, before a call is refused."""

READERS: Final = 4
"""Connections for reading; a fifth one is for writing."""


class PostgresStore(BackedStore):
    """A store in a schema of a PostgreSQL database, which any number of processes on any machines may open.

    What was acknowledged is on the server's disk, unless the URL says `durability=async`.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE` with libpq's parameters, and `schema` (where the tables
            are), `durability` (`full` or `async`) and `notify` (`off` or `on`).
        patience_s: How long the server may be away, or a row locked by somebody else, before a call is refused.
        readers: How many reads run at once, each on a connection of its own.
        clock: Judges leases and deadlines; None is the server's clock, on which all agree.
        limits: What is taken at most.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = PATIENCE_S,
        readers: int = READERS,
        clock: Callable[[], float] | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        limits: Limits | None = None,
    ) -> None:
        address = parse_address(url)
        notifier = Notifier()
        executor = PostgresExecutor(
            address, notifier, readers=readers, patience_s=patience_s, clock=clock, new_id=new_id
        )
        super().__init__(address.shown, executor=executor, notifier=notifier, limits=limits)


def open_store(url: str) -> PostgresStore:
    """The store of a URL, not opened yet.

    Raises:
        ConfigError: The URL cannot be used.
    """
    return PostgresStore(url)
