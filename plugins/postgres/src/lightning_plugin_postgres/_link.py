"""The link of the writer to the server: its transactions, and what became of those whose end was not heard of."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final

import psycopg

from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._connection import Connection
from lightning_plugin_postgres._line import Line
from lightning_plugin_postgres._lookups import Raw
from lightning_plugin_postgres._pipe import Pipe
from lightning_plugin_postgres._schema import lock_key
from lightning_plugin_postgres._writing import WriteSession

_MARKERS: Final = 200  # deleted together


class Fate(Enum):
    """What became of a transaction that did not end well."""

    ROLLED_BACK = auto()
    LOST = auto()
    """Rolled back, because its connection was lost."""
    COMMITTED = auto()


class Link:
    """Transactions on one connection. Used by one thread."""

    def __init__(self, connection: Connection, address: Address) -> None:
        self._line = Line(address, writing=True, connection=connection)
        self._completion_lock = lock_key(address, "completions")
        self._marker: int | None = None
        self._asking = False
        self._markers: list[int] = []

    def open(self) -> Pipe:
        """The pipe, made anew if it was lost.

        Raises:
            psycopg.Error: The server is away.
        """
        return self._line.open()

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(psycopg.Error):
            if self._markers:
                self._run("DELETE FROM commits WHERE id = ANY(%s)", (self._markers,))
        self._line.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[WriteSession]:
        """A session, committed when it is left; it needs no statement to begin or to commit.

        Who does not want it committed says `undo`; an error has to be followed by `recover`.
        """
        self._marker = None
        pipe = self.open()
        yield WriteSession(pipe, completion_lock=self._completion_lock)
        pipe.settle()

    def commit(self, session: WriteSession) -> None:
        """Sends all that is left to do; it is committed when the transaction is left."""
        if len(self._markers) >= _MARKERS:
            session.execute("DELETE FROM commits WHERE id = ANY(%s)", (self._markers,))
            session.keep()
            self._markers = []
        self._marker = secrets.randbits(63)
        if not session.commit(self._marker):
            self._marker = None

    def acknowledge(self) -> None:
        """The commit has succeeded: nobody will ask for its marker any more."""
        if self._marker is not None:
            self._markers.append(self._marker)
            self._marker = None

    def undo(self) -> None:
        """Undoes what the transaction did so far."""
        self._line.open().send("ROLLBACK")

    def recover(self, error: Exception) -> Fate:
        """Makes sure that a transaction which failed is over, and finds out how it ended.

        Raises:
            psycopg.Error: The server is away, or still at it; ask again.
        """
        if not self._asking and self._line.survives(error):
            pipe = self.open()
            with contextlib.suppress(psycopg.Error):
                self.undo()  # the server ignores it where it has undone all by itself
                pipe.settle()  # what is still to be said of the failure
            if not pipe.is_broken:
                return Fate.ROLLED_BACK
        self._line.close()
        if self._marker is None:  # it ended with its connection
            return Fate.LOST
        self._asking = True
        committed = self._committed(self._marker)
        self._asking = False
        self._marker = None
        return Fate.COMMITTED if committed else Fate.LOST

    def abandon(self) -> None:
        """Ends the connection, and with it what is open."""
        self._marker = None
        self._line.close()

    def give_up(self) -> None:
        """Nobody will learn how the transaction ended."""
        self._asking = False
        self._marker = None

    def _committed(self, marker: int) -> bool:
        """Whether a commit happened whose answer was lost.

        Its marker is in the table if it did. If it did not, the marker is put there now, so that it cannot happen any
        more, should its statements still be on their way. If it is happening right now, this waits for it.
        """
        written = self._run(
            "INSERT INTO commits (id) VALUES (%s) ON CONFLICT DO NOTHING RETURNING TRUE", (marker,)
        )
        return not written

    def _run(self, statement: str, parameters: Sequence[object] = ()) -> list[Raw]:
        """Runs a statement in a transaction of its own."""
        pipe = self.open()
        answer = pipe.send(statement, parameters)
        pipe.settle()
        return answer.rows()
