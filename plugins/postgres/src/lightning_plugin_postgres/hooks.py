"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from agentlightning.plugins import hookimpl
from agentlightning.specs import StoreSpec


@hookimpl
def agl_register_stores() -> list[StoreSpec]:
    """PostgreSQL, under both names that its URLs have."""
    return [
        StoreSpec(
            name=scheme,
            target="lightning_plugin_postgres:open_store",
            summary="A PostgreSQL database, shared by any number of servers.",
            requires=("psycopg>=3.2",),
            extra="lightning-plugin-postgres",
        )
        for scheme in ("postgresql", "postgres")
    ]
