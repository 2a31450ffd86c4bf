"""Databases that cannot be used say so in one line, without the password."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agentlightning.errors import StoreUnavailable
from agentlightning.types import RolloutRequest
from lightning_plugin_postgres import PostgresStore
from lightning_plugin_postgres.testing import PostgresServer


async def refusal(url: str) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        async with PostgresStore(url):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_wrong_password_is_named_without_it(server: PostgresServer) -> None:
    said = await refusal(server.url().replace(server.password, "canary"))
    assert "refuses the user or the password" in said
    assert "canary" not in said


async def test_a_missing_database_is_named(server: PostgresServer) -> None:
    assert "no such database" in await refusal(server.url(database="nowhere"))


async def test_a_server_that_is_not_there_is_named(server: PostgresServer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        said = await refusal(server.url().replace(str(server.port), str(port)))
    assert "start the server" in said
    assert server.password not in said


async def test_a_newer_schema_is_refused(server: PostgresServer, url: str) -> None:
    async with PostgresStore(url):
        pass
    with server.connect() as connection:
        connection.execute(f"INSERT INTO {schema(url)}.agl_migrations VALUES (2, 'from the future')".encode())
    assert "upgrade lightning-plugin-postgres" in await refusal(url)


async def test_a_schema_that_is_not_what_was_released_is_refused(server: PostgresServer, url: str) -> None:
    async with PostgresStore(url):
        pass
    with server.connect() as connection:
        connection.execute(f"UPDATE {schema(url)}.agl_migrations SET checksum = 'other'".encode())
    assert "another migration 1" in await refusal(url)


async def test_a_schema_of_another_program_is_refused_and_left_alone(
    server: PostgresServer, url: str
) -> None:
    with server.connect() as connection:
        connection.execute(f"CREATE SCHEMA {schema(url)}".encode())
        connection.execute(f"CREATE TABLE {schema(url)}.customers (id INTEGER)".encode())
        assert "'customers'" in await refusal(url)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema(url),))
        assert tables.fetchall() == [("customers",)]


async def test_many_servers_may_create_the_schema_at_once(url: str) -> None:
    stores = [PostgresStore(url) for _ in range(6)]
    await asyncio.gather(*(store.__aenter__() for store in stores))
    await stores[0].rollouts.enqueue([RolloutRequest(task=0)])
    assert len((await stores[5].rollouts.list()).items) == 1
    await asyncio.gather(*(store.__aexit__() for store in stores))


async def test_what_is_not_asked_to_be_fast_is_flushed_to_disk(server: PostgresServer, url: str) -> None:
    with server.connect() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        async with PostgresStore(url) as full, PostgresStore(f"{url}&durability=async") as fast:
            modes = [
                await store._executor.write(  # what the server was told shows nowhere else
                    lambda unit: unit.tables.rollouts._session.query("SHOW synchronous_commit")  # type: ignore[attr-defined]
                )
                for store in (full, fast)
            ]
        assert modes == [[("on",)], [("off",)]]
    finally:
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_commit")
            connection.execute("SELECT pg_reload_conf()")


def schema(url: str) -> str:
    return url.rpartition("schema=")[2]
