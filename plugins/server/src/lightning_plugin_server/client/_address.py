"""What an `http(s)://` URL of a store says: where the server is, and where its key."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from agentlightning.errors import ConfigError
from lightning_plugin_server._state import key_file, read_key, state_folder

_PARAMETERS: Final = frozenset({"key_file", "patience_s", "spool_mb"})


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A server, and how to reach it.

    Attributes:
        url: Without parameters and without a slash at its end.
        key: Sent with each call; empty for none. Never shown.
        patience_s: How long a call is repeated while the server is away, in seconds.
        spool_after_s: How long an append is, before it goes to disk.
        spool_folder: Where spans wait for a server that is away.
        spool_bytes: Most bytes that wait there.
    """

    url: str
    key: str
    patience_s: float
    spool_after_s: float
    spool_folder: Path
    spool_bytes: int


def address_of(url: str) -> Address:
    """Reads a URL.

    Raises:
        ConfigError: It has a credential, an unknown parameter, no host, or a value that cannot be used.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            "a store's URL must not carry a credential, which would end up in logs; set AGL_KEY instead"
        )
    if not parts.hostname or parts.fragment:
        raise ConfigError(f"{url!r} names no server; write http://host:port")
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(parameters.keys() - _PARAMETERS)
    if unknown:
        raise ConfigError(
            f"{url!r} has the unknown parameter {unknown[0]!r}; there are {', '.join(sorted(_PARAMETERS))}"
        )
    plain = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    patience_s = _number(parameters, "patience_s", 30.0)
    place = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
    return Address(
        url=plain,
        key=_key(parameters.get("key_file"), parts.hostname),
        patience_s=patience_s,
        spool_after_s=min(5.0, patience_s),
        spool_folder=state_folder() / "spool" / place,
        spool_bytes=int(_number(parameters, "spool_mb", 1024.0) * 2**20),
    )


def _key(option: str | None, host: str) -> str:
    """The key: from a named file, the environment, or the server's own file where it is this machine's."""
    if option is not None:
        key = read_key(Path(option))
        if key is None:
            raise ConfigError(f"there is no key file {option!r}")
        return key
    return os.environ.get("AGL_KEY", "").strip() or (_is_loopback(host) and read_key(key_file())) or ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _number(parameters: dict[str, str], name: str, default: float) -> float:
    text = parameters.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be a number from 0 on, got {text!r}")
    return value
