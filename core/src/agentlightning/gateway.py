"""Contract of the gateway: the proxy between agents and models that records every call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from agentlightning.engine import InferenceEngine
from agentlightning.store import Store
from agentlightning.types import Mode


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters that override an agent's own; None leaves them."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


class HttpUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind an OpenAI-compatible URL.

    Attributes:
        base_url: Up to and including `/v1`.
        api_key_env: Environment variable with its key; empty for none. Agents never see the key.
        model: Name that the upstream knows it by; empty for the name asked for.
        token_ids: It understands `return_token_ids`.
    """

    base_url: str
    api_key_env: str = ""
    model: str = ""
    token_ids: bool = True


Upstream = InferenceEngine | HttpUpstream


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway serves.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        key_ttl_s: Lifetime of an attempt's key in seconds.
        pause_timeout_s: Longest a call waits while the gateway is paused, in seconds; then 503 with Retry-After.
        max_body_bytes: Largest request body in bytes; more is 413.
        max_calls: Most calls of one attempt; more is 429.
        sampling: Overrides by mode.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_ttl_s: float = 86_400.0
    pause_timeout_s: float = 600.0
    max_body_bytes: int = 16 * 2**20
    max_calls: int = 1_000
    sampling: dict[Mode, Sampling] = {}


class AttemptGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt's key entitles to: calls of these models, recorded for this attempt, and nothing else.

    Attributes:
        token: The attempt's fencing token.
        mode: Chooses the sampling overrides.
        seed: Each call's sampling seed is derived from it; None leaves sampling unseeded.
        models: Names of models that may be called; empty is all.
    """

    rollout_id: str
    attempt_id: str
    token: int
    mode: Mode
    seed: int | None = None
    models: tuple[str, ...] = ()


class Gateway(Protocol):
    """A running gateway. Safe to use from any thread's event loop.

    Attributes:
        base_url: `http://host:port`, known once started; agents use `{base_url}/v1`.
    """

    base_url: str

    async def start(self) -> None:
        """Binds and serves in a thread of its own.

        Raises:
            GatewayError: The port is taken; the message says by which setting to choose another.
        """
        ...

    async def stop(self) -> None:
        """Ends calls in flight and unbinds."""
        ...

    def issue_key(self, grant: AttemptGrant) -> str:
        """A signed, expiring key `agl-…` for one attempt."""
        ...

    async def release(self, attempt_id: str) -> None:
        """Returns once every call of the attempt is recorded durably; later calls with its key are refused."""
        ...

    def paused(self, *, drain_timeout_s: float = 600.0) -> AbstractAsyncContextManager[None]:
        """Holds new calls (they wait), lets those in flight end, and lets all go on afterwards."""
        ...


class GatewayFactory(Protocol):
    """Target of the `AppSpec` named `gateway`."""

    def __call__(self, *, store: Store, upstreams: Mapping[str, Upstream], config: GatewayConfig) -> Gateway:
        """Builds a gateway.

        Args:
            store: Where calls are recorded.
            upstreams: By model name; the name `*` serves every other model.
            config: How it serves.
        """
        ...
