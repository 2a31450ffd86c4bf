"""The four parts of a store, each method a call."""

from __future__ import annotations

import asyncio
import builtins
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

from agentlightning.errors import StoreUnavailable
from agentlightning.store import (
    AppendResult,
    Page,
    RewardKey,
    RewardSummary,
    RolloutQuery,
    SpanQuery,
)
from agentlightning.types import (
    Attempt,
    Checkpoint,
    Completion,
    Failure,
    Heartbeat,
    Json,
    Lease,
    MetricPoint,
    Resource,
    ResourceRecord,
    ResourceSet,
    ResourceState,
    Reward,
    Rollout,
    RolloutRequest,
    Run,
    RunEvent,
    RunStatus,
    Span,
)
from lightning_plugin_server.client._appending import Appending
from lightning_plugin_server.client._transport import Away, Transport, encoded

_ROUND_S: Final = 20.0
_EARLY: Final = 0.5  # of the time that a call may be held
_PAUSE_S: Final = 0.01
_ALL_ROLLOUTS: Final = RolloutQuery()
_ALL_SPANS: Final = SpanQuery()


class Caller:
    """Makes calls of one part of the store."""

    def __init__(self, transport: Transport, part: str) -> None:
        self._transport = transport
        self._prefix = f"/api/{part}/"

    async def __call__(self, method: str, *, hold_s: float = 0.0, **arguments: object) -> object:
        """One call, repeated while the server is away.

        Raises:
            StoreUnavailable: It stayed away.
        """
        path = self._prefix + method
        work = self._transport.deliver(
            path, encoded(path, arguments), patience_s=self._transport.address.patience_s, hold_s=hold_s
        )
        try:
            return await self._transport.run(work)
        except Away as away:
            raise StoreUnavailable(f"{away}; start `agl serve` there, or wait and try again") from away


class HttpRollouts:
    """`store.rollouts`."""

    def __init__(self, transport: Transport, appending: Appending) -> None:
        self._call = Caller(transport, "rollouts")
        self._appending = appending

    async def enqueue(
        self, requests: Sequence[RolloutRequest], *, idempotency_key: str | None = None
    ) -> list[Rollout]:
        """Adds rollouts in order."""
        key = idempotency_key or _new_key()
        return cast("list[Rollout]", await self._call("enqueue", requests=requests, idempotency_key=key))

    async def lease(
        self,
        worker: str,
        *,
        limit: int = 1,
        ttl_s: float = 30.0,
        wait_s: float = 0.0,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> builtins.list[Lease]:
        """Takes up to `limit` queued rollouts and creates their attempts, atomically."""
        if limit < 1:
            return []
        key = idempotency_key or _new_key()
        until = time.monotonic() + wait_s
        while True:
            asked_at = time.monotonic()
            hold_s = max(0.0, min(until - asked_at, _ROUND_S))
            found = await self._call(
                "lease",
                hold_s=hold_s,
                worker=worker,
                limit=limit,
                ttl_s=ttl_s,
                wait_s=hold_s,
                run_id=run_id,
                idempotency_key=key,
            )
            if found or time.monotonic() >= until:
                return cast("builtins.list[Lease]", found)
            if time.monotonic() - asked_at < hold_s * _EARLY:
                # the key is used up: it took work whose answer was lost, for so long that the leases are over
                if idempotency_key:
                    return []
                key = _new_key()
                await asyncio.sleep(_PAUSE_S)

    async def heartbeat(self, attempt_id: str, *, token: int, ttl_s: float = 30.0) -> Heartbeat:
        """Extends a lease and moves a leased attempt to running."""
        return cast(
            "Heartbeat", await self._call("heartbeat", attempt_id=attempt_id, token=token, ttl_s=ttl_s)
        )

    async def finish(
        self, attempt_id: str, *, token: int, output: Json = None, failure: Failure | None = None
    ) -> Rollout:
        """Ends an attempt, once those of its spans that wait on disk are delivered."""
        await self._appending.delivered(attempt_id)
        return cast(
            "Rollout",
            await self._call("finish", attempt_id=attempt_id, token=token, output=output, failure=failure),
        )

    async def cancel(self, rollout_ids: Sequence[str], *, reason: str = "") -> builtins.list[Rollout]:
        """Cancels what is not terminal yet; terminal rollouts stay as they are."""
        found = await self._call("cancel", rollout_ids=rollout_ids, reason=reason)
        return cast("builtins.list[Rollout]", found)

    async def get(self, rollout_id: str) -> Rollout:
        """One rollout."""
        return cast("Rollout", await self._call("get", rollout_id=rollout_id))

    async def attempts(self, rollout_ids: Sequence[str]) -> builtins.list[Attempt]:
        """All attempts of the rollouts, by rollout in the given order, then by sequence."""
        return cast("builtins.list[Attempt]", await self._call("attempts", rollout_ids=rollout_ids))

    async def list(
        self, query: RolloutQuery = _ALL_ROLLOUTS, *, limit: int = 100, cursor: str | None = None
    ) -> Page[Rollout]:
        """A page of rollouts."""
        return cast("Page[Rollout]", await self._call("list", query=query, limit=limit, cursor=cursor))

    async def wait(
        self,
        rollout_ids: Sequence[str] | None = None,
        *,
        group: str | None = None,
        run_id: str | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Rollout]:
        """Waits until all are terminal or the time is up; returns those that are."""
        if rollout_ids is None and (group is None) != (run_id is None):
            rollout_ids = await self._ids(RolloutQuery(group=group, run_id=run_id))
            group = run_id = None
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _ROUND_S if until is None else max(0.0, min(until - time.monotonic(), _ROUND_S))
            found = cast(
                "builtins.list[Rollout]",
                await self._call(
                    "wait",
                    hold_s=left_s,
                    rollout_ids=rollout_ids,
                    group=group,
                    run_id=run_id,
                    timeout_s=left_s,
                ),
            )
            all_there = rollout_ids is not None and len(found) >= len(rollout_ids)
            if all_there or (until is not None and time.monotonic() >= until):
                return found

    async def completions(
        self, *, after: int = 0, run_id: str | None = None, limit: int = 100, wait_s: float = 0.0
    ) -> builtins.list[Completion]:
        """Rollouts that became terminal after the cursor, in order; waits up to `wait_s` for the first."""
        until = time.monotonic() + wait_s
        while True:
            hold_s = max(0.0, min(until - time.monotonic(), _ROUND_S))
            found = await self._call(
                "completions", hold_s=hold_s, after=after, run_id=run_id, limit=limit, wait_s=hold_s
            )
            if found or time.monotonic() >= until:
                return cast("builtins.list[Completion]", found)

    async def _ids(self, query: RolloutQuery) -> builtins.list[str]:
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = await self.list(query, limit=1000, cursor=cursor)
            ids += (rollout.id for rollout in page.items)
            cursor = page.cursor
            if cursor is None:
                return ids


class HttpSpans:
    """`store.spans`."""

    def __init__(self, transport: Transport, appending: Appending) -> None:
        self._call = Caller(transport, "spans")
        self._appending = appending

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        """Adds spans; where the server stays away, they are kept on disk and brought later."""
        return await self._appending.append(spans, token=token)

    async def page(self, query: SpanQuery, *, limit: int = 1000, cursor: str | None = None) -> Page[Span]:
        """A page of spans."""
        return cast("Page[Span]", await self._call("page", query=query, limit=limit, cursor=cursor))

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """Rewards of the rollouts' successful (or, where none succeeded, newest) attempts; late ones left out."""
        return cast("list[Reward]", await self._call("rewards", rollout_ids=rollout_ids))

    async def count(self, query: SpanQuery = _ALL_SPANS) -> int:
        """How many spans match."""
        return cast("int", await self._call("count", query=query))

    async def summarise(
        self, query: RolloutQuery = _ALL_ROLLOUTS, *, by: RewardKey = RewardKey.DIMENSION
    ) -> list[RewardSummary]:
        """Count, mean and spread of the matching rollouts' rewards, by key and dimension, in their order."""
        return cast("list[RewardSummary]", await self._call("summarise", query=query, by=by))


class HttpResources:
    """`store.resources`."""

    def __init__(self, transport: Transport) -> None:
        self._call = Caller(transport, "resources")

    async def publish(
        self,
        resources: Mapping[str, Resource | ResourceRecord],
        *,
        parent: str | None = None,
        state: ResourceState = ResourceState.LIVE,
        weight: float = 0.0,
        run_id: str | None = None,
        step: int | None = None,
        idempotency_key: str | None = None,
    ) -> ResourceSet:
        """Adds a set. Publishing as live retires the set that was live."""
        records = {
            name: resource if isinstance(resource, ResourceRecord) else ResourceRecord.of(resource)
            for name, resource in resources.items()
        }
        found = await self._call(
            "publish",
            resources=records,
            parent=parent,
            state=state,
            weight=weight,
            run_id=run_id,
            step=step,
            idempotency_key=idempotency_key or _new_key(),
        )
        return cast("ResourceSet", found)

    async def get(self, set_id: str) -> ResourceSet:
        """One set."""
        return cast("ResourceSet", await self._call("get", set_id=set_id))

    async def live(self) -> ResourceSet | None:
        """The live set, if any."""
        return cast("ResourceSet | None", await self._call("live"))

    async def list(self, *, run_id: str | None = None, limit: int = 100) -> builtins.list[ResourceSet]:
        """Newest first."""
        return cast("builtins.list[ResourceSet]", await self._call("list", run_id=run_id, limit=limit))

    async def move(self, set_id: str, state: ResourceState, *, weight: float = 0.0) -> ResourceSet:
        """Promotes, rolls back or retires; making one live retires the one that was."""
        return cast("ResourceSet", await self._call("move", set_id=set_id, state=state, weight=weight))


class HttpRuns:
    """`store.runs`."""

    def __init__(self, transport: Transport) -> None:
        self._call = Caller(transport, "runs")

    async def create(self, run: Run) -> Run:
        """Adds a run; adding the very same run again changes nothing."""
        return cast("Run", await self._call("create", run=run))

    async def get(self, run_id: str) -> Run:
        """One run; `interrupted` if its owner stopped calling `heartbeat`."""
        return cast("Run", await self._call("get", run_id=run_id))

    async def list(self, *, limit: int = 100) -> builtins.list[Run]:
        """Newest first."""
        return cast("builtins.list[Run]", await self._call("list", limit=limit))

    async def heartbeat(self, run_id: str, *, owner: str, ttl_s: float = 10.0) -> bool:
        """Keeps a run alive for its owner; true when somebody asked it to stop."""
        return cast("bool", await self._call("heartbeat", run_id=run_id, owner=owner, ttl_s=ttl_s))

    async def update(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        summary: Mapping[str, Json] | None = None,
        checkpoint: Checkpoint | None = None,
        error: str | None = None,
        owner: str | None = None,
        ttl_s: float = 10.0,
    ) -> Run:
        """Changes what is given; `summary` is merged by key. A status that is not running frees the owner."""
        found = await self._call(
            "update",
            run_id=run_id,
            status=status,
            summary=summary,
            checkpoint=checkpoint,
            error=error,
            owner=owner,
            ttl_s=ttl_s,
        )
        return cast("Run", found)

    async def request_stop(self, run_id: str) -> None:
        """Asks the owner to stop; it learns of it from its next heartbeat."""
        await self._call("request_stop", run_id=run_id)

    async def log(
        self,
        run_id: str,
        *,
        points: Sequence[MetricPoint] = (),
        events: Sequence[RunEvent] = (),
        idempotency_key: str | None = None,
    ) -> None:
        """Adds metric points and events. A point with the name and step of an earlier one replaces it."""
        key = idempotency_key or _new_key()
        await self._call("log", run_id=run_id, points=points, events=events, idempotency_key=key)

    async def metrics(self, run_id: str, *, names: Sequence[str] | None = None) -> builtins.list[MetricPoint]:
        """Metric points by name, then by step."""
        return cast("builtins.list[MetricPoint]", await self._call("metrics", run_id=run_id, names=names))

    async def events(self, run_id: str) -> builtins.list[RunEvent]:
        """Events in order."""
        return cast("builtins.list[RunEvent]", await self._call("events", run_id=run_id))


def _new_key() -> str:
    return f"auto-{secrets.token_hex(12)}"
