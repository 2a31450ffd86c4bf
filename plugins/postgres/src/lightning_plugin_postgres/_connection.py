"""Connections to the server, set up for one of the two things that a store does: write or read."""

from __future__ import annotations

from typing import Final, TypeAlias

import psycopg
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

from lightning_plugin_postgres._address import Address

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]

_LIMITS: Final = {
    # rows are never waited for; this is for the rare rest, such as two inserts of one key
    "lock_timeout": "3s",
    # a server that has been stopped or cut off gives back what it holds
    "idle_in_transaction_session_timeout": "15s",
    "statement_timeout": "60s",
    "jit": "off",
    "client_encoding": "UTF8",
}
# transactions have no statement that begins them, so they are as the session says
_READING: Final = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}
_WRITING: Final = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # rows are found by index: a plan made while a table was empty must not stay when it is not
    "enable_seqscan": "off",
    # and planning anew costs more than running
    "plan_cache_mode": "force_generic_plan",
}


def connect(address: Address, *, writing: bool) -> Connection:
    """Opens a connection that commits by itself, unless `BEGIN` says otherwise.

    Raises:
        psycopg.Error: The server is out of reach, or refuses.
    """
    connection: Connection = psycopg.connect(
        "",
        autocommit=True,
        prepare_threshold=0,
        **address.parameters,  # type: ignore[arg-type]
    )
    try:
        # ints of one type alone, else each width of a number makes another prepared statement
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        settings = {
            **_LIMITS,
            **(_WRITING if writing else _READING),
            "search_path": f'"{address.schema}"',
            "synchronous_commit": _commit_mode(connection, address),
        }
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    except BaseException:
        connection.close()
        raise
    connection.prepared_max = 500
    return connection


def _commit_mode(connection: Connection, address: Address) -> str:
    """What a commit waits for: the server's disk, or more where the server's settings ask for more."""
    if not address.durable:
        return "off"
    row = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()
    return "remote_apply" if row == ("remote_apply",) else "on"
