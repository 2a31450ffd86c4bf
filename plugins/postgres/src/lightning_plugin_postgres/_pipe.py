"""Pipes: many statements in one write to the server, and their answers read when somebody asks.

This is libpq's pipeline mode through `psycopg.pq`. The driver's own pipelines talk to the server at each statement,
which costs several times as much: a lease and its commit are about ten statements.
"""

from __future__ import annotations

import re
import select
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Final

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

from lightning_plugin_postgres._connection import Connection
from lightning_plugin_postgres._lookups import Raw

_SILENCE_S: Final = 90.0  # longer than any statement may take: the server has been stopped or cut off
_FLUSHED_BYTES: Final = 64 * 1024  # are sent at once, so that the server can begin
_AUTO: Final = PyFormat.AUTO


class Answer:
    """What the server says to one statement, in the end."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.result: pq.abc.PGresult | None = None
        self.error: psycopg.Error | None = None

    def rows(self) -> list[Raw]:
        """Its rows.

        Raises:
            psycopg.Error: It, or one before it, failed.
        """
        if self.result is None and self.error is None:
            self._pipe.receive(self)
        if self.error is not None:
            raise self.error
        return self._pipe.load(self.result)


class Pipe:
    """Statements over one connection, which is of no other use meanwhile. Used by one thread."""

    def __init__(self, connection: Connection) -> None:
        self._pgconn = connection.pgconn
        self._adapt = Transformer(connection)
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._count = 0
        self._due: deque[Answer | bytes | None] = deque()  # an answer, a preparation's name, or a sync
        self._error: psycopg.Error | None = None
        self._unsent_bytes = 0
        self._poll = select.poll()
        self._pgconn.enter_pipeline_mode()

    @property
    def is_broken(self) -> bool:
        """Whether the connection is gone."""
        return self._pgconn.status != pq.ConnStatus.OK

    def send(self, statement: str, parameters: Sequence[object] = ()) -> Answer:
        """Sends a statement, some time before its answer is asked for."""
        values = self._adapt.dump_sequence(parameters, [_AUTO] * len(parameters))
        types, formats = tuple(self._adapt.types or ()), self._adapt.formats
        name = self._names.get((statement, types)) or self._prepare(statement, types)
        self._pgconn.send_query_prepared(name, values, param_formats=formats, result_format=pq.Format.BINARY)
        answer = Answer(self)
        self._due.append(answer)
        self._unsent_bytes += sum(len(value) for value in values if value is not None)
        if self._unsent_bytes > _FLUSHED_BYTES:
            self._unsent_bytes = 0
            self._pgconn.flush()
        return answer

    def receive(self, answer: Answer) -> None:
        """Reads answers up to one."""
        self._pgconn.send_flush_request()
        self._pgconn.flush()
        while answer.result is None and answer.error is None:
            self._receive_next()

    def settle(self) -> None:
        """Reads all answers.

        Raises:
            psycopg.Error: A statement failed; those after it were not executed.
        """
        self._pgconn.pipeline_sync()  # which also sends what is not sent yet
        self._due.append(None)
        while self._due:
            self._receive_next()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def load(self, result: pq.abc.PGresult | None) -> list[Raw]:
        """The rows of a result."""
        if result is None or not result.ntuples:
            return []
        self._adapt.set_pgresult(result)
        return self._adapt.load_rows(0, result.ntuples, tuple)

    def _prepare(self, statement: str, types: tuple[int, ...]) -> bytes:
        """A prepared statement for parameters of these types; 0 is the type of a NULL, and fits to any."""
        for (known, kinds), name in self._names.items():
            if known == statement and all(one in {0, kind} for one, kind in zip(types, kinds, strict=True)):
                self._names[statement, types] = name
                return name
        self._count += 1
        name = self._names[statement, types] = f"agl_{self._count}".encode()
        self._pgconn.send_prepare(name, _numbered(statement), types)
        self._due.append(name)
        return name

    def _receive_next(self) -> None:
        due = self._due[0]
        result = self._read()
        if result is None:
            raise psycopg.OperationalError("the server closed the connection")
        self._due.popleft()
        if due is None:
            return
        failed = result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}
        if failed and self._error is None:
            self._error = error_from_result(result)
        if isinstance(due, Answer):
            due.result, due.error = result, self._error if failed else None
        elif failed:
            self._names = {place: name for place, name in self._names.items() if name != due}
        self._read()  # the end of this answer

    def _read(self) -> pq.abc.PGresult | None:
        pgconn = self._pgconn
        while pgconn.is_busy():
            unsent = pgconn.flush()
            self._poll.register(pgconn.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            if not self._poll.poll(_SILENCE_S * 1000):
                raise psycopg.OperationalError(f"the server has been silent for {_SILENCE_S:g} s")
            pgconn.consume_input()
        result = pgconn.get_result()
        if self.is_broken:
            raise psycopg.OperationalError(pgconn.get_error_message() or "the connection was lost")
        return result


@cache
def _numbered(statement: str) -> bytes:
    """The statement with `$1`, `$2`, … in place of `%s`."""
    numbers = iter(range(1, statement.count("%") + 1))
    return re.sub("%s", lambda _: f"${next(numbers)}", statement).encode()
