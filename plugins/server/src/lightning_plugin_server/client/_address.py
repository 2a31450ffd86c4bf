"""What an `http(s)://` URL of a store says: where the server is, and where its key."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from agentlightning.errors import ConfigError
from lightning_plugin_server._state import key_file, read_key, state_folder

_PARAMETERS: Final = frozenset({"key_file", "patience_s", "spool_mb"})
_CREDENTIAL: Final = re.compile("key|token|secret|password|auth", re.IGNORECASE)


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
    parts = _split(url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    plain = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    unknown = sorted(parameters.keys() - _PARAMETERS)
    if unknown:  # its value may be a key: neither it nor the whole URL is repeated
        hint = "; a key comes from AGL_KEY or key_file" if _CREDENTIAL.search(unknown[0]) else ""
        raise ConfigError(
            f"the store {plain!r} has no parameter {unknown[0]!r}; there are {', '.join(sorted(_PARAMETERS))}{hint}"
        )
    patience_s = _number(parameters, "patience_s", 30.0)
    place = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
    return Address(
        url=plain,
        key=_key(parameters.get("key_file"), parts.hostname or ""),
        patience_s=patience_s,
        spool_after_s=min(5.0, patience_s),
        spool_folder=state_folder() / "spool" / place,
        spool_bytes=int(_number(parameters, "spool_mb", 1024.0) * 2**20),
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        nowhere = not parts.hostname or parts.fragment or parts.port == 0
    except ValueError:  # a port that is no number, or brackets that do not match
        raise ConfigError("the store's URL cannot be read; write http://host:port") from None
    if "@" in parts.netloc:
        raise ConfigError(
            "a store's URL must not carry a credential, which would end up in logs; set AGL_KEY instead"
        )
    if nowhere:
        raise ConfigError(f"{parts.scheme}://{parts.netloc} names no server; write http://host:port")
    return parts


def _key(option: str | None, host: str) -> str:
    """The key: from a named file, the environment, or the server's own file where it is this machine's."""
    if option is not None:
        key = read_key(Path(option))
        if key is None:
            raise ConfigError(f"there is no key file {option!r}")
    else:
        key = os.environ.get("AGL_KEY", "").strip() or (_is_loopback(host) and read_key(key_file())) or ""
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "the key has characters that no key has; copy it again into AGL_KEY or the key file"
        )
    return key


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
