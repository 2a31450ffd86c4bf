"""Calls that end in a rush are recorded together, and each learns its own fate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agentlightning.errors import LimitExceeded, StoreUnavailable
from agentlightning.gateway import AttemptGrant
from agentlightning.store import AppendResult, SpanQuery, Store, open_store
from agentlightning.types import Lease, Mode, RolloutRequest, Span, SpanSource, SpanStatus
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._recorder import Recorder

CALLS = 8


@dataclass
class Spans:
    """Spans of a store, told what it was asked."""

    store: Store
    appends: list[int] = field(default_factory=list)
    refuse: str = ""
    away: int = 0

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        self.appends.append(len(spans))
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        if any(span.attempt_id == self.refuse for span in spans):
            raise LimitExceeded("full")
        return await self.store.spans.append(spans, token=token)


@dataclass
class Bench:
    store: Store
    spans: Spans
    leases: list[Lease]
    late: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self, late=self.late.append, in_flight=lambda: CALLS)  # type: ignore[arg-type]

    def append(self, place: int, ident: str) -> asyncio.Task[None]:
        lease = self.leases[place]
        grant = AttemptGrant(
            rollout_id=lease.rollout.id,
            attempt_id=lease.attempt.id,
            token=lease.attempt.token,
            mode=Mode.TRAIN,
        )
        span = Span(
            rollout_id=grant.rollout_id,
            attempt_id=grant.attempt_id,
            span_id=ident,
            trace_id="0" * 31 + "1",
            name="chat",
            operation="chat",
            source=SpanSource.GATEWAY,
            start_ns=1,
            end_ns=2,
            status=SpanStatus.OK,
        )
        return asyncio.create_task(self.recorder.append(span, grant))

    async def rush(self, ident: str) -> list[BaseException | None]:
        """One call of each attempt, right after a first one that has nobody to wait for."""
        await self.append(0, f"{ident}-first")
        self.spans.appends.clear()
        calls = [self.append(place, f"{ident}-{place}") for place in range(CALLS)]
        return await asyncio.gather(*calls, return_exceptions=True)

    async def recorded(self) -> set[str]:
        page = await self.store.spans.page(SpanQuery(include_late=True))
        return {span.span_id for span in page.items}


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with open_store("memory://") as store:
        await store.rollouts.enqueue([RolloutRequest(task=place) for place in range(CALLS)])
        leases = await store.rollouts.lease("w", limit=CALLS, ttl_s=60.0)
        here = Bench(store, Spans(store), leases)
        yield here
        await here.recorder.stop()


async def test_calls_that_end_in_a_rush_share_a_commit() -> None:
    async with bench() as here:
        assert await here.rush("a") == [None] * CALLS
        assert here.spans.appends == [CALLS]
        assert await here.recorded() == {"a-first", *(f"a-{place}" for place in range(CALLS))}


async def test_a_call_that_nobody_joins_is_recorded_by_itself_soon() -> None:
    async with bench() as here:
        await here.append(0, "first")
        await here.append(1, "second")  # seven others are in flight, and do not end
        assert here.spans.appends == [1, 1]


async def test_what_is_wrong_with_one_is_not_the_others_fault() -> None:
    async with bench() as here:
        here.spans.refuse = here.leases[3].attempt.id
        outcomes = await here.rush("a")
        (failed,) = [error for error in outcomes if error is not None]
        assert outcomes[3] is failed
        assert isinstance(failed, ApiError)
        assert failed.fault == "not_recorded"
        assert await here.recorded() == {"a-first", *(f"a-{place}" for place in range(CALLS) if place != 3)}


async def test_a_store_that_comes_back_has_them_all() -> None:
    async with bench() as here:
        await here.append(0, "first")
        here.spans.away = CALLS  # the rush itself, and the first try of each by itself but one
        calls = [here.append(place, f"a-{place}") for place in range(CALLS)]
        assert await asyncio.gather(*calls, return_exceptions=True) == [None] * CALLS
        assert len(await here.recorded()) == CALLS + 1


async def test_a_store_that_stays_away_fails_each() -> None:
    async with bench() as here:
        await here.append(0, "first")
        here.spans.away = 10**6
        calls = [here.append(place, f"a-{place}") for place in range(CALLS)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [error.status for error in outcomes if isinstance(error, ApiError)] == [503] * CALLS


async def test_one_that_gives_up_takes_nobody_with_it() -> None:
    async with bench() as here:
        await here.append(0, "first")
        calls = [here.append(place, f"a-{place}") for place in range(CALLS)]
        await asyncio.sleep(0)
        calls[0].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert outcomes[1:] == [None] * (CALLS - 1)


async def test_a_late_one_among_many_is_told_with_its_next_call() -> None:
    async with bench() as here:
        over = here.leases[2].attempt
        await here.store.rollouts.finish(over.id, token=over.token)
        assert await here.rush("a") == [None] * CALLS
        assert here.late == []
        await here.append(2, "b")
        assert here.late == [over.id]


@pytest.mark.parametrize("rounds", [20])
async def test_every_acknowledged_call_is_there(rounds: int) -> None:
    async with bench() as here:
        for number in range(rounds):
            assert await here.rush(str(number)) == [None] * CALLS
        assert len(await here.recorded()) == rounds * (CALLS + 1)
