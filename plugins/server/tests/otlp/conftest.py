"""What the tests of OTLP share: a server over a file, with two attempts that run."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

from agentlightning.credentials import Scope
from agentlightning.store import SpanQuery, open_store
from agentlightning.types import Attempt, Episode, Lease, Rollout, RolloutRequest, Span, reward_span
from lightning_plugin_server.testing import RunningServer, running_server


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Site:
    """A server over a file, with attempts that run."""

    server: RunningServer
    store_url: str
    leases: list[Lease]

    @property
    def ids(self) -> dict[str, str]:
        """Attributes that name the first attempt."""
        lease = self.leases[0]
        return {"agl.rollout.id": lease.rollout.id, "agl.attempt.id": lease.attempt.id}

    def agent_key(self) -> str:
        """The key of the first attempt."""
        lease = self.leases[0]
        return self.server.key_for(Scope.AGENT, rollout_id=lease.rollout.id, attempt_id=lease.attempt.id)

    def spans(self, place: int = 0) -> list[Span]:
        """What is stored of an attempt."""

        async def read() -> list[Span]:
            async with open_store(self.store_url) as store:
                query = SpanQuery(attempt_ids=(self.leases[place].attempt.id,), include_late=True)
                return list((await store.spans.page(query)).items)

        return asyncio.run(read())

    def append(self, *spans: Span) -> None:
        """Stores spans, as a gateway does."""

        async def write() -> None:
            async with open_store(self.store_url) as store:
                await store.spans.append(spans)

        asyncio.run(write())

    def episode(self, *, reward: float) -> Episode:
        """The first attempt as it was captured, after a grader has judged it."""
        ids = {"rollout_id": self.leases[0].rollout.id, "attempt_id": self.leases[0].attempt.id}

        async def finish() -> tuple[Rollout, Attempt]:
            async with open_store(self.store_url) as store:
                judged = reward_span(
                    **ids, span_id="00000000000000ff", trace_id="f" * 32, time_ns=1, value=reward
                )
                await store.spans.append([judged])
                token = self.leases[0].attempt.token
                rollout = await store.rollouts.finish(ids["attempt_id"], token=token)
                (attempt,) = await store.rollouts.attempts([rollout.id])
                return rollout, attempt

        rollout, attempt = asyncio.run(finish())
        return Episode(rollout=rollout, attempt=attempt, spans=tuple(self.spans()))


def post(url: str, body: bytes, *, key: str = "", content_type: str = "", encoding: str = "") -> Answer:
    """Sends a request, and returns the answer whatever its status."""
    headers = {"x-api-key": key, "content-type": content_type, "content-encoding": encoding}
    request = urllib.request.Request(url, body, {name: text for name, text in headers.items() if text})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return _answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.headers, error.read())


def _answer(status: int, headers: Message, body: bytes) -> Answer:
    return Answer(status, {name.lower(): text for name, text in headers.items()}, body)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server over a file, with two attempts that run."""
    store_url = f"sqlite:///{tmp_path / 'store.db'}"

    async def prepare() -> list[Lease]:
        async with open_store(store_url) as store:
            await store.rollouts.enqueue([RolloutRequest(task="a"), RolloutRequest(task="b")])
            return await store.rollouts.lease("worker", limit=2, ttl_s=600)

    leases = asyncio.run(prepare())
    with running_server(store_url) as server:
        yield Site(server, store_url, leases)


@pytest.fixture
def sender() -> object:
    """`post`, for tests."""
    return post
