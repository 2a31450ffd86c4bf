"""Changes: the statements that write rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from agentlightning.store.backend import AttemptRow, RolloutRow, SpanRow

MARK: Final = "INSERT INTO commits (id) VALUES (%s)"
"""Leaves word that a transaction was committed."""


@dataclass(frozen=True, eq=False)
class Change:
    """A statement that writes one row.

    Attributes:
        stays: It is executed in its place; others are moved next to those of their kind.
        ordered: Rows are written by key, so that two servers that write the same ones do not block each other.
    """

    statement: str
    stays: bool = False
    ordered: bool = False

    @cached_property
    def marked(self) -> str:
        """The statement that also leaves a transaction's marker, its first parameter; empty where it cannot."""
        plain = self.statement.startswith(("INSERT ", "UPDATE ", "DELETE "))
        return f"WITH marker AS ({MARK}) {self.statement}" if plain else ""


def _insert(table: str, columns: Sequence[str]) -> Change:
    names = ", ".join(f'"{column}"' for column in columns)
    return Change(f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(columns))})")  # noqa: S608 - constants


def _update(table: str, columns: Sequence[str]) -> Change:
    values = ", ".join(f"{column} = %s" for column in columns)
    return Change(f"UPDATE {table} SET {values} WHERE number = %s")  # noqa: S608 - constants


# a row's number comes from the server
NEW_ROLLOUT: Final = _insert("rollouts", RolloutRow.__struct_fields__[1:])
CHANGED_ROLLOUT: Final = _update(
    "rollouts", ("status", "attempts", "resources", "completion", "finished_at", "output", "failure")
)
NEW_ATTEMPT: Final = _insert("attempts", AttemptRow.__struct_fields__[1:])
CHANGED_ATTEMPT: Final = _update(
    "attempts",
    ("status", "expires_at", "due_at", "finished_at", "output", "failure", "spans", "late", "size_bytes"),
)
NEW_SPAN: Final = _insert("spans", SpanRow.__struct_fields__)
NEW_REWARD: Final = Change("INSERT INTO rewards VALUES (%s, %s, %s, %s, %s, %s, %s, %s)")
NEW_KEY: Final = Change("INSERT INTO keys VALUES (%s, %s, %s, %s)")
BLOB_LOCK: Final = Change("SELECT pg_advisory_xact_lock_shared(%s)")
NEW_BLOB: Final = Change("INSERT INTO blobs VALUES (%s, %s) ON CONFLICT DO NOTHING", ordered=True)
NEW_BLOB_USE: Final = Change("INSERT INTO blob_uses (digest, attempt) VALUES (%s, %s) ON CONFLICT DO NOTHING")
NEW_RESOURCE_SET: Final = Change(
    "INSERT INTO resource_sets VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", stays=True
)
NEW_RUN: Final = Change("INSERT INTO runs (id, body, stop) VALUES (%s, %s, %s)")
CHANGED_RUN: Final = Change("UPDATE runs SET body = %s, stop = %s WHERE id = %s")
NEW_POINT: Final = Change(
    "INSERT INTO metrics VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (run_id, name, step) DO UPDATE SET value = EXCLUDED.value, time = EXCLUDED.time",
    ordered=True,
)
NEW_EVENT: Final = Change("INSERT INTO run_events (run_id, body) VALUES (%s, %s)")
