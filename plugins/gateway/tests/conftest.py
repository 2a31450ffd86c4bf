"""A gateway between the OpenAI SDK and a scripted model, recording into a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import openai
import pytest

from agentlightning.gateway import AttemptGrant, Gateway, GatewayConfig, HttpUpstream, Upstream
from agentlightning.store import AppendResult
from agentlightning.testing import ScriptedLLM, ScriptedReply, ScriptedRequest
from agentlightning.types import Mode, Span
from lightning_plugin_gateway import HttpPolicy, create_gateway

Script = Callable[[ScriptedRequest], ScriptedReply] | Iterable[ScriptedReply]
IMPATIENT = HttpPolicy(
    tries=3, backoff_s=0.01, longest_wait_s=0.5, connect_s=1.0, silence_s=0.3, total_s=20.0
)


class InMemorySpans:
    """Keeps spans; `fail` raises instead."""

    def __init__(self) -> None:
        self.kept: list[Span] = []
        self.tokens: list[int | None] = []
        self.fail: list[Exception] = []
        self.late = 0

    async def append(self, spans: list[Span], *, token: int | None = None) -> AppendResult:
        if self.fail:
            raise self.fail.pop()
        self.kept += spans
        self.tokens.append(token)
        return AppendResult(stored=len(spans), late=self.late)


@dataclass
class InMemoryStore:
    spans: InMemorySpans = field(default_factory=InMemorySpans)


@dataclass
class Bench:
    gateway: Gateway
    llm: ScriptedLLM
    store: InMemoryStore

    @property
    def spans(self) -> list[Span]:
        return self.store.spans.kept

    def key(
        self,
        attempt: str = "a1",
        *,
        rollout: str = "r1",
        mode: Mode = Mode.TRAIN,
        seed: int | None = None,
        models: tuple[str, ...] = (),
    ) -> str:
        return self.gateway.issue_key(
            AttemptGrant(rollout_id=rollout, attempt_id=attempt, token=7, mode=mode, seed=seed, models=models)
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
    ) -> AsyncIterator[Bench]:
        store = InMemoryStore()
        with ScriptedLLM(script) as llm:
            there = upstreams or {"*": HttpUpstream(base_url=llm.base_url, token_ids=token_ids)}
            gateway = create_gateway(
                store=store, upstreams=there, config=config or GatewayConfig(), http=http
            )  # type: ignore[arg-type]
            await gateway.start()
            try:
                yield Bench(gateway=gateway, llm=llm, store=store)
            finally:
                await gateway.stop()

    return serving
