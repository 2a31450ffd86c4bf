"""Contract of the gateway: the proxy between agents and models that records every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens cost, in any one currency per million tokens."""

    prompt: float
    response: float


class HttpUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind a URL: an OpenAI-compatible server, or one that speaks Anthropic's messages.

    Attributes:
        base_url: Up to and including `/v1`.
        replicas: Base URLs of further servers of the same model and weights.
        api_key_env: Environment variable with its key; empty for none. Agents never see the key.
        model: Name that the upstream knows it by; empty for the name asked for.
        token_ids: It understands `return_token_ids`.
        wires: Protocols that it speaks: `chat`, `completions`, `responses`, `messages`, `embeddings`. A request in
            another is translated to the first of them.
        price: What its tokens cost, for the limit `max_cost`; None counts nothing.
        max_concurrency: Most calls in flight at one server; more wait in line. 0 is no limit.
    """

    base_url: str
    replicas: tuple[str, ...] = ()
    api_key_env: str = ""
    model: str = ""
    token_ids: bool = True
    wires: tuple[str, ...] = ("chat", "completions", "embeddings")
    price: Price | None = None
    max_concurrency: int = 0


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
        max_tokens: Most tokens of one attempt, prompts and answers together; calls beyond are 429. None is no limit.
        max_cost: Most that one attempt may cost, in the currency of the upstreams' prices; likewise.
        call_timeout_s: Longest that a call may take from its arrival to its last byte, in seconds, pauses not counted.
        keepalive_s: A waiting stream is sent a comment this often, in seconds, so that no client gives it up.
        observe: Calls that belong to no attempt are forwarded, each recorded as a rollout of its own.
        sampling: Overrides by mode.
        on_policy: What calls of training rollouts have from engines, where no override says otherwise.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_ttl_s: float = 86_400.0
    pause_timeout_s: float = 600.0
    max_body_bytes: int = 16 * 2**20
    max_calls: int = 1_000
    max_tokens: int | None = None
    max_cost: float | None = None
    call_timeout_s: float = 600.0
    keepalive_s: float = 10.0
    observe: bool = False
    sampling: dict[Mode, Sampling] = {}
    on_policy: Sampling = Sampling()


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


class CanaryScore(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered to the fixed question, at temperature 0.

    Attributes:
        version: Policy version that answered.
        token_ids: The answer.
        logprobs: Log-probability of each of its tokens.
        common: Leading tokens that the answer before has too; 0 for a first one.
        change: Mean absolute difference of their log-probabilities since then; None without any in common.
    """

    model: str
    version: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    common: int = 0
    change: float | None = None


class Gateway(Protocol):
    """A running gateway. Safe to use from any thread's event loop.

    Attributes:
        base_url: `http://host:port`, known once started; agents use `{base_url}/v1`.
    """

    base_url: str

    @property
    def canaries(self) -> Sequence[CanaryScore]:
        """What the canary found around the last changes of weights, oldest first; up to date while paused."""
        ...

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
