"""A gateway between the OpenAI SDK and a scripted model, recording into a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from agentlightning import semconv
from agentlightning.credentials import KeyRing
from agentlightning.gateway import AttemptGrant, Gateway, GatewayConfig, HttpUpstream, Upstream
from agentlightning.store import AppendResult, SpanQuery, SpanStore, Store, open_store
from agentlightning.testing import ScriptedLLM, ScriptedReply, ScriptedRequest
from agentlightning.types import Lease, Mode, RolloutRequest, Span
from lightning_plugin_gateway import HttpPolicy, create_gateway

Script = Callable[[ScriptedRequest], ScriptedReply] | Iterable[ScriptedReply]
IMPATIENT = HttpPolicy(
    tries=3, backoff_s=0.01, longest_wait_s=0.5, connect_s=1.0, silence_s=0.3, total_s=20.0
)
ROLLOUTS = ("r1", "r2", "r/1")


@dataclass
class FailingSpans:
    """Spans of a store that fails on demand: of calls, not the marks of streams that have begun."""

    spans: SpanStore
    fail: list[Exception] = field(default_factory=list)

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        if self.fail and any(span.operation != semconv.OPERATION_BEGUN for span in spans):
            raise self.fail.pop()
        return await self.spans.append(spans, token=token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.spans, name)


@dataclass
class GatewayStore:
    """A store whose spans fail on demand."""

    store: Store
    spans: FailingSpans

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@dataclass
class Bench:
    """One leased attempt for each rollout; `r1` calls unless another is named."""

    gateway: Gateway
    llm: ScriptedLLM
    store: Store
    failing: FailingSpans
    leases: dict[str, Lease]

    def attempt(self, rollout: str = "r1") -> str:
        return self.leases[rollout].attempt.id

    async def spans(self) -> list[Span]:
        """Of calls; not the marks of streams that have begun."""
        page = await self.store.spans.page(SpanQuery(include_late=True))
        calls = [span for span in page.items if span.operation != semconv.OPERATION_BEGUN]
        return sorted(calls, key=lambda span: (span.start_ns, span.sequence))

    def key(
        self,
        rollout: str = "r1",
        *,
        mode: Mode = Mode.TRAIN,
        seed: int | None = None,
        models: tuple[str, ...] = (),
    ) -> str:
        attempt = self.leases[rollout].attempt
        return self.gateway.issue_key(
            AttemptGrant(
                rollout_id=rollout,
                attempt_id=attempt.id,
                token=attempt.token,
                mode=mode,
                seed=seed,
                models=models,
            )
        )

    def sdk(self, key: str | None = None, *, max_retries: int = 0, path: str = "/v1") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.gateway.base_url + path,
            api_key=key or self.key(),
            max_retries=max_retries,
            timeout=20,
        )


Serve = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def serving(
        script: Script = (),
        *,
        config: GatewayConfig | None = None,
        upstreams: dict[str, Upstream] | None = None,
        token_ids: bool = True,
        http: HttpPolicy = IMPATIENT,
        url: str = "memory://",
        keys: KeyRing | None = None,
        wrap: Callable[[Any], Any] = lambda store: store,
    ) -> AsyncIterator[Bench]:
        async with open_store(url) as store:
            await store.rollouts.enqueue([RolloutRequest(task=None, id=rollout) for rollout in ROLLOUTS])
            leases = {
                lease.rollout.id: lease
                for lease in await store.rollouts.lease("tests", limit=len(ROLLOUTS), ttl_s=600)
            }
            failing = FailingSpans(store.spans)
            with ScriptedLLM(script) as llm:
                there = upstreams or {
                    "*": HttpUpstream(base_url=llm.base_url, token_ids=token_ids, wires=("chat",))
                }
                gateway = create_gateway(
                    store=wrap(GatewayStore(store, failing)),
                    upstreams=there,
                    config=config or GatewayConfig(),
                    http=http,
                    keys=keys,
                )
                await gateway.start()
                try:
                    yield Bench(gateway=gateway, llm=llm, store=store, failing=failing, leases=leases)
                finally:
                    await gateway.stop()

    return serving
