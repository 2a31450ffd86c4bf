"""Lines: a connection with its pipe, made anew when it is lost."""

from __future__ import annotations

import random
import time
from typing import Final

import psycopg

from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._connection import Connection, connect
from lightning_plugin_postgres._failures import is_final
from lightning_plugin_postgres._pipe import Pipe

_BACKOFF_S: Final = (0.02, 0.04)  # between tries to connect, doubled with each up to 32 times


class Line:
    """One connection at a time. Used by one thread."""

    def __init__(self, address: Address, *, writing: bool, connection: Connection | None = None) -> None:
        self._address = address
        self._writing = writing
        self._connection = connection
        self._pipe = None if connection is None else Pipe(connection)
        self._failures = 0
        self._try_at = 0.0
        self._refusal: psycopg.Error | None = None

    def open(self) -> Pipe:
        """The pipe.

        Raises:
            psycopg.Error: The server is away. After a failure it is asked again only after a while.
        """
        if self._pipe is not None:
            return self._pipe
        if self._refusal is not None and time.monotonic() < self._try_at:
            raise self._refusal.with_traceback(None)
        try:
            self._connection = connect(self._address, writing=self._writing)
        except psycopg.Error as error:
            self._refusal = error
            self._failures = min(self._failures + 1, 5)
            self._try_at = time.monotonic() + random.uniform(*_BACKOFF_S) * 2**self._failures
            raise
        self._failures, self._refusal = 0, None
        self._pipe = Pipe(self._connection)
        return self._pipe

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._pipe is not None

    def survives(self, error: Exception) -> bool:
        """Whether the connection is of further use after an error."""
        return self._pipe is not None and not self._pipe.is_broken and not is_final(error)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._pipe = None
