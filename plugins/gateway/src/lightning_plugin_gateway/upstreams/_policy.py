"""How patient the gateway is with upstreams behind a URL."""

from __future__ import annotations

import msgspec

from agentlightning.errors import ConfigError


class HttpPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Patience, in seconds unless said otherwise.

    Attributes:
        tries: Most tries of a call that fails in a way that may pass; each server gets at least one.
        backoff_s: Longest wait before the second try; doubles with each, at random from 0 up. Another server that has
            not been tried yet is asked at once.
        longest_wait_s: A wait longer than this, also one asked for by `Retry-After`, is left to the client; and so
            long do calls wait while all servers are down.
        connect_s: Longest time to connect.
        first_byte_s: Longest time until an answer begins; one that is not streamed begins when it is complete. Keep
            it below `call_timeout_s`: a call whose own time is up first speaks against no server.
        silence_s: Longest time without a byte after that.
        total_s: Longest duration of a call, its line and its tries included, until it is answered or its stream
            begins.
        trip_after: So many failures in a row open a server's breaker.
        trip_share: Or so large a share of failures, 0 to 1, over the last `trip_window_s`.
        trip_calls: With at least so many calls in that window.
        trip_window_s: Length of that window.
        cooldown_s: How long an open breaker keeps calls away, then one is let through to see; at random from half
            of it up, doubled each time that fails.
        longest_cooldown_s: Most that it is doubled to.
        max_waiting: Most calls in line for a model's servers; more are refused with 429.
    """

    tries: int = 4
    backoff_s: float = 0.5
    longest_wait_s: float = 8.0
    connect_s: float = 10.0
    first_byte_s: float = 300.0
    silence_s: float = 300.0
    total_s: float = 900.0
    trip_after: int = 5
    trip_share: float = 0.5
    trip_calls: int = 20
    trip_window_s: float = 30.0
    cooldown_s: float = 1.0
    longest_cooldown_s: float = 30.0
    max_waiting: int = 4096

    def __post_init__(self) -> None:
        for name in ("tries", "trip_after", "trip_calls"):
            if getattr(self, name) < 1:
                raise ConfigError(f"HttpPolicy.{name} is {getattr(self, name)!r}; it must be at least 1")
        for name in ("connect_s", "first_byte_s", "silence_s", "total_s", "trip_window_s", "cooldown_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"HttpPolicy.{name} is {getattr(self, name)!r}; it must be above 0 seconds")
        if not 0 < self.trip_share <= 1:
            raise ConfigError(
                f"HttpPolicy.trip_share is {self.trip_share!r}; it must be above 0 and at most 1"
            )
