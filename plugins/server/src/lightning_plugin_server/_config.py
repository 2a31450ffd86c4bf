"""How the server serves."""

from __future__ import annotations

import msgspec


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the server serves.

    Attributes:
        max_body_bytes: Largest request body in bytes, after decompression; more is 413.
        max_requests: Most requests at once, long polls included; more is 429.
        body_timeout_s: Longest time for a request to arrive, in seconds; then 408. Likewise for an answer to be taken.
        max_wait_s: Longest that a long poll is held, in seconds; clients ask again.
        max_limit: Most items of one page or listing.
        hosts: Values of the `Host` header that are served, without port; empty serves any.
        open: Everybody is admitted as `admin`; only for `--unsafe-no-auth`.
    """

    max_body_bytes: int = 64 * 2**20
    max_requests: int = 4096
    body_timeout_s: float = 60.0
    max_wait_s: float = 60.0
    max_limit: int = 10_000
    hosts: tuple[str, ...] = ()
    open: bool = False
