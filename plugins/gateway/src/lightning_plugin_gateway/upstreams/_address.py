"""Addresses of servers: where they are, and what of them no client may see."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec

from agentlightning.errors import ConfigError

_UNIX = "http+unix"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A base URL, taken apart.

    Attributes:
        base: What paths are appended to.
        socket: Path of a Unix socket; empty for a host and port.
        host: Host and port, or the socket; cut out of what clients are told.
    """

    base: str
    socket: str = ""
    host: str


def parse_address(url: str) -> Address:
    """The address of a base URL: `http://`, `https://`, or `http+unix://` with the socket's path percent-encoded.

    Raises:
        ConfigError: It is none of these, or has a user, a query or a fragment.
    """
    base = url.rstrip("/")
    try:
        parts = urlsplit(base)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(
            f"upstream {url!r} is no URL: {error}; give one such as http://host:8000/v1"
        ) from None
    if parts.scheme not in ("http", "https", _UNIX) or not host:
        raise ConfigError(f"upstream {url!r} cannot be used; give a URL such as http://host:8000/v1")
    if "@" in parts.netloc:
        shown = base.replace(parts.netloc, "***@" + parts.netloc.rpartition("@")[2])
        raise ConfigError(
            f"upstream {shown!r} has a password in it; name its variable in api_key_env instead"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"upstream {url!r} has a query or a fragment; give its path up to /v1 only")
    if parts.scheme == _UNIX:
        socket = unquote(parts.netloc)
        return Address(base="http://localhost" + parts.path, socket=socket, host=socket)
    return Address(base=base, host=parts.netloc)
