"""URLs: what they say, and what is never shown."""

from __future__ import annotations

import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ConfigError
from lightning_plugin_postgres import PostgresStore, open_store
from lightning_plugin_postgres._address import parse_address


def test_a_url_says_where_the_store_is_and_how_it_is_used() -> None:
    address = parse_address(
        "postgresql://ann:secret@db.example:6543/lab?sslmode=require&schema=mine&durability=async&notify=on"
    )
    assert address.parameters["host"] == "db.example"
    assert address.parameters["port"] == "6543"
    assert address.parameters["password"] == "secret"
    assert address.parameters["sslmode"] == "require"
    assert (address.schema, address.durable, address.notify) == ("mine", False, True)


def test_what_is_acknowledged_is_durable_unless_the_url_says_otherwise() -> None:
    assert parse_address("postgres://localhost/lab").durable


def test_libpq_s_own_parameters_can_be_set() -> None:
    assert parse_address("postgresql:///lab?connect_timeout=3").parameters["connect_timeout"] == "3"
    assert parse_address("postgresql:///lab?host=/run/db").parameters["host"] == "/run/db"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("durability=normal", "durability is full or async, got 'normal'"),
        ("notify=maybe", "notify is off or on, got 'maybe'"),
        ("schema=a;b", "letters, digits"),
        ("schema=pg_mine", "letters, digits"),
        ("colour=red", "durability"),
    ],
)
def test_a_wrong_parameter_is_refused(query: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_store(f"postgresql://ann:hush@localhost/lab?{query}")


def test_the_store_shows_its_user_but_no_password() -> None:
    store = PostgresStore("postgresql://ann:hush@localhost:1/lab?schema=mine&password=hush&sslpassword=hush")
    assert store.url == "postgresql://ann@localhost:1/lab?schema=mine"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=6))
def test_no_password_is_ever_shown(text: str) -> None:
    password = f"hush{text}"
    for written in (quote(password, safe=""), password):  # as it should be written, and as people write it
        url = f"postgresql://ann:{written}@localhost/lab"
        try:
            address = parse_address(url)
        except ConfigError as error:
            said = str(error)
        else:
            said = f"{address!r} {address.shown}"
        assert "hush" not in said


def test_errors_can_be_pickled() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address("postgresql://localhost/lab?schema=1")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
