"""The four protocols of a store. Every backend has the same semantics and passes the same contract kit.

All methods are safe to call from any thread's event loop and from several at once. What a method has returned is
acknowledged, and what is acknowledged is kept. Times are seconds; the store's own clock judges leases and deadlines.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from agentlightning.store._queries import (
    ALL_ROLLOUTS,
    ALL_SPANS,
    AppendResult,
    Page,
    RolloutQuery,
    SpanQuery,
)
from agentlightning.store._records import (
    Loaded,
    Record,
    Retention,
    RewardKey,
    RewardSummary,
    Statistics,
    Trimmed,
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


class RolloutStore(Protocol):
    """Queue and lifecycle of rollouts. Legal moves are those of `agentlightning.store.lifecycle`."""

    async def enqueue(
        self, requests: Sequence[RolloutRequest], *, idempotency_key: str | None = None
    ) -> builtins.list[Rollout]:
        """Adds rollouts in order.

        Raises:
            Conflict: An id is taken, or the key came before with other requests. The same key with the same
                requests returns the first result and adds nothing.
            LimitExceeded: The queue is full, or a task is larger than the store takes.
            NotFound: The key came before, and what it enqueued was trimmed since.
        """
        ...

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
        """Takes up to `limit` queued rollouts (of one run, if given) and creates their attempts, atomically.

        First in, first out within one priority; waits up to `wait_s` for the first, woken by notification.
        Pins the live (or, by weight, canary) resource set on rollouts that pin none. Repeating the call with the
        same key returns those of the leases it took before that still hold, at once, and never takes others; as long
        as it took none, the key is new.

        Raises:
            Conflict: The key came before with another worker, limit or run.
        """
        ...

    async def heartbeat(self, attempt_id: str, *, token: int, ttl_s: float = 30.0) -> Heartbeat:
        """Extends a lease and moves a leased attempt to running.

        Raises:
            LeaseLost: The attempt has ended or the token is older than the rollout's newest. After `cancel` the
                answer is `cancelled=True` instead.
            NotFound: No such attempt.
        """
        ...

    async def finish(
        self, attempt_id: str, *, token: int, output: Json = None, failure: Failure | None = None
    ) -> Rollout:
        """Ends an attempt: succeeded without `failure`, else by its kind; retries as the rollout's config says.

        Raises:
            LeaseLost: The attempt has ended, was cancelled, timed out, or the token is older than the newest.
                Repeating an identical `finish` of the same attempt returns the rollout and changes nothing.
            NotFound: No such attempt.
        """
        ...

    async def cancel(self, rollout_ids: Sequence[str], *, reason: str = "") -> builtins.list[Rollout]:
        """Cancels what is not terminal yet; terminal rollouts stay as they are."""
        ...

    async def get(self, rollout_id: str) -> Rollout:
        """One rollout. Raises `NotFound`."""
        ...

    async def attempts(self, rollout_ids: Sequence[str]) -> builtins.list[Attempt]:
        """All attempts of the rollouts, by rollout in the given order, then by sequence."""
        ...

    async def list(
        self, query: RolloutQuery = ALL_ROLLOUTS, *, limit: int = 100, cursor: str | None = None
    ) -> Page[Rollout]:
        """A page of rollouts."""
        ...

    async def wait(
        self,
        rollout_ids: Sequence[str] | None = None,
        *,
        group: str | None = None,
        run_id: str | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Rollout]:
        """Waits until all are terminal or the time is up; returns those that are.

        Exactly one of `rollout_ids`, `group` and `run_id` says which: the ids in their order, or what the group or
        the run has when the call is made, in order of creation.

        Raises:
            ValueError: None or several of them are given.
            NotFound: One of the ids does not exist.
        """
        ...

    async def completions(
        self, *, after: int = 0, run_id: str | None = None, limit: int = 100, wait_s: float = 0.0
    ) -> builtins.list[Completion]:
        """Rollouts that became terminal after the cursor, in order; waits up to `wait_s` for the first."""
        ...


class SpanStore(Protocol):
    """Append-only log of what was observed."""

    async def append(self, spans: Sequence[Span], *, token: int | None = None) -> AppendResult:
        """Adds spans, idempotent by (attempt, span id), and numbers them gap-free per attempt.

        Spans for an attempt that has ended, or with a token older than its rollout's newest, are kept as late.

        Raises:
            NotFound: An attempt does not exist.
            InvalidReward: A reward span carries no finite number. Nothing of the batch is stored.
            LimitExceeded: A span is larger than the store takes, or its attempt has all the spans or bytes that
                an attempt may have. Nothing of that attempt's part is stored; in the second case the attempt gets
                one marker span (`agl.truncated`) that says so.
        """
        ...

    async def page(self, query: SpanQuery, *, limit: int = 1000, cursor: str | None = None) -> Page[Span]:
        """A page of spans: at most `limit`, and fewer where they are large; its cursor says whether there are more."""
        ...

    async def rewards(self, rollout_ids: Sequence[str]) -> builtins.list[Reward]:
        """Rewards of the rollouts' successful (or, where none succeeded, newest) attempts; late ones left out."""
        ...

    async def count(self, query: SpanQuery = ALL_SPANS) -> int:
        """How many spans match."""
        ...

    async def summarise(
        self, query: RolloutQuery = ALL_ROLLOUTS, *, by: RewardKey = RewardKey.DIMENSION
    ) -> builtins.list[RewardSummary]:
        """Count, mean and spread of the matching rollouts' rewards, by key and dimension, in their order.

        The rewards are those that `rewards` returns.
        """
        ...


class ResourceStore(Protocol):
    """Immutable, versioned resource sets."""

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
        """Adds a set. Publishing as live retires the set that was live.

        Raises:
            Conflict: Publishing as live, and `parent` is not the id of the set that is live now; or the key came
                before with other resources. The same key with the same ones returns the first result.
            NotFound: The parent does not exist.
        """
        ...

    async def get(self, set_id: str) -> ResourceSet:
        """One set. Raises `NotFound`."""
        ...

    async def live(self) -> ResourceSet | None:
        """The live set, if any."""
        ...

    async def list(self, *, run_id: str | None = None, limit: int = 100) -> builtins.list[ResourceSet]:
        """Newest first."""
        ...

    async def move(self, set_id: str, state: ResourceState, *, weight: float = 0.0) -> ResourceSet:
        """Promotes, rolls back or retires; making one live retires the one that was."""
        ...


class RunStore(Protocol):
    """Jobs, their metrics and events."""

    async def create(self, run: Run) -> Run:
        """Adds a run; adding the very same run again changes nothing. Raises `Conflict` if the id is taken."""
        ...

    async def get(self, run_id: str) -> Run:
        """One run; `interrupted` if its owner stopped calling `heartbeat`. Raises `NotFound`."""
        ...

    async def list(self, *, limit: int = 100) -> builtins.list[Run]:
        """Newest first."""
        ...

    async def heartbeat(self, run_id: str, *, owner: str, ttl_s: float = 10.0) -> bool:
        """Keeps a run alive for its owner; true when somebody asked it to stop.

        Raises:
            LeaseLost: Another owner drives it.
        """
        ...

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
        """Changes what is given; `summary` is merged by key. A status that is not running frees the owner.

        Repeating the call that ended a run changes nothing.

        Raises:
            IllegalTransition: The run succeeded or failed already, in another way.
            LeaseLost: `owner` is given to take the run over, and a living one drives it.
        """
        ...

    async def request_stop(self, run_id: str) -> None:
        """Asks the owner to stop; it learns of it from its next heartbeat."""
        ...

    async def log(
        self,
        run_id: str,
        *,
        points: Sequence[MetricPoint] = (),
        events: Sequence[RunEvent] = (),
        idempotency_key: str | None = None,
    ) -> None:
        """Adds metric points and events. A point with the name and step of an earlier one replaces it.

        Repeating the call with the same key changes nothing.
        """
        ...

    async def metrics(self, run_id: str, *, names: Sequence[str] | None = None) -> builtins.list[MetricPoint]:
        """Metric points by name, then by step."""
        ...

    async def events(self, run_id: str) -> builtins.list[RunEvent]:
        """Events in order."""
        ...


class Store(Protocol):
    """Where agents, runners and algorithms meet."""

    url: str
    rollouts: RolloutStore
    spans: SpanStore
    resources: ResourceStore
    runs: RunStore

    async def sweep(self) -> int:
        """Expires overdue leases and attempts now; returns how many. A background task does so by itself."""
        ...

    async def statistics(self) -> Statistics:
        """How much there is of everything."""
        ...

    async def trim(self, retention: Retention) -> Trimmed:
        """Deletes terminal rollouts, with all that belongs to them, as far as the retention says; oldest first.

        What a run that is not over (running, interrupted or stopped) may need is never deleted, nor is the rollout
        that became terminal last: it keeps the count of completions.
        """
        ...

    async def load(self, records: Sequence[Record]) -> Loaded:
        """Adds records as another store exported them; what is there already is skipped.

        Rollouts come before their attempts, and attempts before their spans. Terminal rollouts complete anew, in
        the order of the records. Attempts that were open are judged by their leases, as any other; where rollout
        and newest attempt were exported at different moments, the later moment counts. If anything is refused,
        nothing of the batch is added.

        Raises:
            Conflict: An id is taken by something else.
            NotFound: What a record belongs to is neither here nor before it in the batch.
            ValueError: Spans or events before it are missing, or a rollout never had such an attempt.
            LimitExceeded: A span, or the batch, is larger than the store takes.
        """
        ...

    async def __aenter__(self) -> Self:
        """Opens or creates it.

        Raises:
            StoreUnavailable: It cannot be opened.
        """
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Closes it; everything acknowledged stays."""
        ...
