"""Addresses: what the URL of a PostgreSQL store says, and how it is shown without its password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from agentlightning.errors import ConfigError

SCHEMA: Final = "agentlightning"
_OURS: Final = {"schema": SCHEMA, "durability": "full", "notify": "off"}
_USER: Final = re.compile(r"[\w.%+-]+", re.ASCII)
_SECRET: Final = frozenset({"password", "passfile", "sslpassword"})
_CHOICES: Final = {"durability": ("full", "async"), "notify": ("off", "on")}
# a connection to a host that has vanished must not hang for the two hours that the system would wait
_DEFAULTS: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "agentlightning",
}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store is, and how it is used.

    Attributes:
        shown: The URL without its password, for messages and for `store.url`.
        parameters: What libpq needs to connect, the password included.
        schema: The schema that holds the tables.
        durable: Acknowledged means flushed to the server's disk.
        notify: Servers tell each other of changes with `NOTIFY`, besides polling.
    """

    shown: str
    parameters: dict[str, str]
    schema: str = SCHEMA
    durable: bool = True
    notify: bool = False

    @property
    def channel(self) -> str:
        """Where servers of this store notify each other."""
        return f"agl_{self.schema}"[:63]

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"


def parse_address(url: str) -> Address:
    """Takes a store's URL apart.

    Raises:
        ConfigError: It is not a PostgreSQL URL, or a parameter is wrong. The message has no credentials.
    """
    place, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    ours = {**_OURS, **{name: value for name, value in given if name in _OURS}}
    rest = [(name, value) for name, value in given if name not in _OURS]
    shown = _shown(url)
    for name, choices in _CHOICES.items():
        if ours[name] not in choices:
            raise ConfigError(f"{shown!r}: {name} is {' or '.join(choices)}, got {ours[name]!r}")
    schema = ours["schema"]
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema) or schema.lower().startswith("pg_"):
        raise ConfigError(f"{shown!r}: a schema is named by letters, digits and '_', got {schema!r}")
    try:
        known = conninfo_to_dict(f"{place}?{urlencode(rest, quote_via=quote)}")
    except ProgrammingError:  # its message may quote the password
        raise ConfigError(
            f"{shown!r} is no URL that PostgreSQL understands; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE,"
            " with %XX for special characters in the password; besides libpq's parameters there are"
            f" {', '.join(_OURS)}"
        ) from None
    parameters = {**_DEFAULTS, **{name: str(value) for name, value in known.items() if value is not None}}
    return Address(
        shown=shown,
        parameters=parameters,
        schema=schema,
        durable=ours["durability"] == "full",
        notify=ours["notify"] == "on",
    )


def _shown(url: str) -> str:
    """The URL without password and secret parameters, whatever its form; with PGPASSWORD set, it can be opened."""
    scheme, _, rest = url.partition("://")
    # a password may hold a '/' or a '?' that nobody escaped
    person, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    user = person.partition(":")[0]
    if _USER.fullmatch(user):
        place = f"{user}@{place}"
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in _SECRET]
    return f"{scheme}://{place}" + (f"?{urlencode(kept, safe='/')}" if kept else "")
