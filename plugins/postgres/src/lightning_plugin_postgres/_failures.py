"""PostgreSQL's errors: which may be tried again, and how they read to people."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors

from agentlightning.errors import StoreUnavailable
from lightning_plugin_postgres._address import Address

_CONTENDED: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
_PASSING: Final = (
    *_CONTENDED,
    errors.UniqueViolation,  # somebody was first: looking again finds what they did
    errors.QueryCanceled,
)
_SERVER_GOES: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,  # a standby: the primary is elsewhere by now
)
_ADVICE: Final = (
    (errors.InvalidPassword, "the server refuses the user or the password; check both"),
    (errors.InvalidAuthorizationSpecification, "the server refuses the user; check the user and pg_hba.conf"),
    (errors.InvalidCatalogName, "there is no such database; create it, or name another"),
    (
        errors.InsufficientPrivilege,
        "the user lacks a right; grant it CREATE on the database, or own the schema",
    ),
    (errors.TooManyConnections, "the server takes no more connections; raise max_connections, or close some"),
    (errors.DiskFull, "the server's disk is full; free some space and go on: nothing acknowledged was lost"),
    (errors.ReadOnlySqlTransaction, "the server is read-only; name the primary"),
    (errors.LockNotAvailable, "another session holds a lock; look at pg_stat_activity"),
    (errors.QueryCanceled, "a statement took too long or was cancelled; look at pg_stat_activity"),
)


class Stale(Exception):
    """A signal of the writer to itself, never seen by callers: what was read has changed meanwhile."""


def is_passing(error: Exception) -> bool:
    """Whether the same work may well succeed in a new transaction."""
    return isinstance(error, (Stale, *_PASSING))


def is_contended(error: Exception) -> bool:
    """Whether another session was in the way, and none of the operations is to blame."""
    return isinstance(error, _CONTENDED)


def is_final(error: Exception) -> bool:
    """Whether an error is the last that a connection has to say."""
    return isinstance(error, _SERVER_GOES)


def is_away(error: Exception) -> bool:
    """Whether the server may well be there again soon."""
    return is_final(error) or type(error) is psycopg.OperationalError or _is(error, errors.TooManyConnections)


def unavailable(error: Exception, address: Address) -> StoreUnavailable:
    """The error to raise in place of PostgreSQL's: one line, without credentials."""
    advice = next((text for kind, text in _ADVICE if _is(error, kind)), None)
    if advice is None:
        away = isinstance(error, psycopg.OperationalError)
        advice = (
            "it is out of reach; start the server, or check host and port" if away else "PostgreSQL refused"
        )
    detail = " ".join(str(error).split())
    secret = address.parameters.get("password")
    if secret:
        detail = detail.replace(secret, "***")
    return StoreUnavailable(f"store {address.shown!r}: {advice} ({detail})")


def _is(error: Exception, kind: type[psycopg.Error]) -> bool:
    if isinstance(error, kind):
        return True
    # while a connection is made, libpq hands over words only
    words = {
        errors.InvalidPassword: "password authentication failed",
        errors.InvalidAuthorizationSpecification: "no pg_hba.conf entry",
        errors.InvalidCatalogName: "does not exist",
        errors.TooManyConnections: "too many clients",
    }
    return type(error) is psycopg.OperationalError and kind in words and words[kind] in str(error)
