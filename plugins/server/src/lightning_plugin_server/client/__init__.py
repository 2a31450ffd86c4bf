"""The store behind a server: `http(s)://` URLs.

`_store.py` puts the parts together, `_parts.py` has one method per route, `_transport.py` delivers calls whatever
happens on the way, `_appending.py` brings spans, and `_spool.py` keeps on disk those that cannot be delivered yet.
"""

from lightning_plugin_server.client._store import HttpStore

__all__ = ["HttpStore"]
