"""Resource sets and runs in PostgreSQL, and all tables together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentlightning.store.backend import ResourceRow, RunRow
from agentlightning.types import MetricPoint
from lightning_plugin_postgres._address import Address
from lightning_plugin_postgres._changes import CHANGED_RUN, NEW_EVENT, NEW_POINT, NEW_RESOURCE_SET, NEW_RUN
from lightning_plugin_postgres._failures import Stale
from lightning_plugin_postgres._lookups import RUN, STATE
from lightning_plugin_postgres._rollout_tables import PostgresAttempts, PostgresRollouts
from lightning_plugin_postgres._schema import lock_key
from lightning_plugin_postgres._session import Session
from lightning_plugin_postgres._span_tables import PostgresBlobs, PostgresKeys, PostgresSpans


class PostgresResources:
    """Resource sets in a table. They are read without locks; a change of what has changed meanwhile is refused."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[int, ResourceRow] = {}

    def add(self, row: ResourceRow) -> None:
        """Adds a row."""
        self._session.write(NEW_RESOURCE_SET, msgspec.structs.astuple(row))
        self._session.drop(STATE, row.state)

    def get(self, set_id: str) -> ResourceRow | None:
        """One row."""
        rows = self._rows("WHERE id = %s", (set_id,))
        return rows[0] if rows else None

    def in_state(self, state: str) -> list[ResourceRow]:
        """Rows in a state, by version."""
        rows = self._session.look(STATE, (state,)).get(state, ())
        return self._saw(rows)

    def newest(self, *, run_id: str | None, limit: int) -> list[ResourceRow]:
        """Rows by falling version."""
        of_run, values = ("", ()) if run_id is None else ("WHERE run_id = %s ", (run_id,))
        return self._rows(f"{of_run}ORDER BY version DESC LIMIT %s", (*values, limit))

    def save(self, row: ResourceRow) -> None:
        """Writes state and weight."""
        seen = self._seen[row.version]
        changed = self._session.change(
            "UPDATE resource_sets SET state = %s, weight = %s WHERE version = %s AND state = %s AND weight = %s",
            (row.state, row.weight, row.version, seen.state, seen.weight),
        )
        if not changed:
            raise Stale(f"resource set {row.id!r} was changed by another server")
        self._saw([row])
        self._session.drop(STATE, seen.state)
        self._session.drop(STATE, row.state)

    def total(self) -> int:
        """How many rows."""
        return int(self._session.query("SELECT count(*) FROM resource_sets")[0][0])

    def _rows(self, rest: str, values: Sequence[object]) -> list[ResourceRow]:
        rows = self._session.query(f"SELECT * FROM resource_sets {rest}", values)  # noqa: S608 - constants
        return self._saw([ResourceRow(*row) for row in rows])

    def _saw(self, rows: Sequence[ResourceRow]) -> list[ResourceRow]:
        self._seen.update((row.version, row) for row in rows)
        return list(rows)


class PostgresRuns:
    """Runs, metric points and events in tables."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: RunRow) -> None:
        """Adds a row, numbering it."""
        self._session.write(NEW_RUN, (row.id, row.body, row.stop))
        self._session.drop(RUN, row.id)

    def get(self, run_id: str) -> RunRow | None:
        """One row."""
        return self._session.look(RUN, (run_id,)).get(run_id)

    def newest(self, limit: int) -> list[RunRow]:
        """Rows by falling number."""
        rows = self._session.query("SELECT * FROM runs ORDER BY number DESC LIMIT %s", (limit,))
        return [RunRow(*row) for row in rows]

    def save(self, row: RunRow) -> None:
        """Writes body and stop."""
        self._session.write(CHANGED_RUN, (row.body, row.stop, row.id), key=row.id)
        self._session.put(RUN, row.id, row)

    def total(self) -> int:
        """How many rows."""
        return int(self._session.query("SELECT count(*) FROM runs")[0][0])

    def log(self, run_id: str, *, points: Sequence[MetricPoint], events: Sequence[bytes]) -> None:
        """Adds points (replacing those of the same name and step) and packed events."""
        for point in points:
            values = (run_id, *msgspec.structs.astuple(point))
            self._session.write(NEW_POINT, values, key=f"{run_id}\n{point.name}\n{point.step}")
        for event in events:
            self._session.write(NEW_EVENT, (run_id, event))

    def points(self, run_id: str, names: Sequence[str] | None) -> list[MetricPoint]:
        """Points by name, then by step."""
        some, values = ("", ()) if names is None else (" AND name = ANY(%s)", (list(names),))
        rows = self._session.query(
            f"SELECT name, step, value, time FROM metrics WHERE run_id = %s{some} ORDER BY name, step",  # noqa: S608 - constants
            (run_id, *values),
        )
        return [MetricPoint(name=name, step=step, value=value, time=time) for name, step, value, time in rows]

    def events(self, run_id: str) -> list[bytes]:
        """Packed events in order."""
        rows = self._session.query("SELECT body FROM run_events WHERE run_id = %s ORDER BY number", (run_id,))
        return [bytes(row[0]) for row in rows]


class PostgresTables:
    """All tables, over one session."""

    def __init__(self, session: Session, address: Address) -> None:
        self.rollouts = PostgresRollouts(session)
        self.keys = PostgresKeys(session)
        self.blobs = PostgresBlobs(session, lock=lock_key(address, "blobs"))
        self.attempts = PostgresAttempts(session)
        self.spans = PostgresSpans(session)
        self.resources = PostgresResources(session)
        self.runs = PostgresRuns(session)
