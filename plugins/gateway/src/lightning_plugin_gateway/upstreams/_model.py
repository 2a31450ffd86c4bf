"""What answers calls, whatever wire they come by: the contract between the gateway and its upstreams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import msgspec

from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._status import ModelStatus


class CallRoute(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a call is made, and how.

    Attributes:
        rollout_id: Calls of one rollout go to the same server as long as that is not overloaded; empty leaves the
            choice to `prefix`.
        attempt_id: Attempt within the rollout.
        deadline: When the call must have ended, by `time.monotonic()` in seconds; None is only the policy's limit.
        headers: The client's headers to pass on, by lower-case name; chosen by an allow-list.
        prefix: Hash of the first messages.
        slim: Of a chat completion's `logprobs`, only the numbers are read: they may be a `Logprobs`.
    """

    rollout_id: str
    attempt_id: str
    deadline: float | None = None
    headers: Mapping[str, str] = {}
    prefix: bytes = b""
    slim: bool = False


class Model(Protocol):
    """What answers calls. Belongs to the event loop that calls it first; `status` is safe from any thread."""

    @property
    def name(self) -> str:
        """Name to ask it for; empty for the name that the client asked for."""
        ...

    @property
    def provider(self) -> str:
        """Who serves it, for the record."""
        ...

    @property
    def token_ids(self) -> bool:
        """It understands `return_token_ids`."""
        ...

    @property
    def is_engine(self) -> bool:
        """It is the run's own engine, and no model of somebody else's."""
        ...

    @property
    def wires(self) -> frozenset[str]:
        """Protocols that it speaks."""
        ...

    @property
    def version(self) -> int:
        """Policy version that it samples from now; -1 if unknown."""
        ...

    async def call(self, wire: str, request: Body, *, route: CallRoute) -> Body:
        """A whole answer to a request of one of its wires. Cancelling it ends the generation. Raises `ApiError`."""
        ...

    def stream(self, wire: str, request: Body, *, route: CallRoute) -> AsyncGenerator[Body]:
        """The data of the events of an answer, up to and with the wire's last; `[DONE]` is left out.

        Closing it ends the generation. Nothing is tried again once an event was handed out. Raises `ApiError`.
        """
        ...

    def status(self) -> ModelStatus:
        """How it fares."""
        ...

    async def stop(self) -> None:
        """Closes connections."""
        ...
