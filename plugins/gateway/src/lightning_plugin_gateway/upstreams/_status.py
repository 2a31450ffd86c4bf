"""How upstreams fare, in numbers for people."""

from __future__ import annotations

import msgspec

from lightning_plugin_gateway.upstreams._breaker import BreakerState


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a model. Its address is for operators: no agent may see it.

    Attributes:
        url: Base URL.
        state: Of its breaker.
        in_flight: Calls that it answers now.
        calls: Tries sent to it so far.
        failures: Those that failed by its fault.
    """

    url: str
    state: BreakerState
    in_flight: int
    calls: int
    failures: int


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        calls: Calls so far.
        failures: Calls that ended with an error.
        retries: Tries beyond the first of each call.
        in_flight: Calls that are being answered.
        waiting: Calls in line for a server.
        open_breakers: Servers that are left alone.
        servers: Its servers; none for an engine in this process.
    """

    calls: int
    failures: int
    retries: int = 0
    in_flight: int = 0
    waiting: int = 0
    open_breakers: int = 0
    servers: tuple[ServerStatus, ...] = ()
