"""What must hold of a store after every single call, whoever calls and whatever fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning.errors import LeaseLost
from agentlightning.store import SpanQuery
from agentlightning.store.lifecycle import (
    ATTEMPT_MOVES,
    ROLLOUT_MOVES,
    attempt_ended,
    attempt_ending,
    rollout_ended,
)
from agentlightning.types import Attempt, AttemptStatus, Failure, FailureClass, Rollout, RolloutStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentlightning.store import Store

ENOUGH = 100_000


class Violation(AssertionError):
    """The store broke a promise."""


def require(holds: bool, what: str, *found: object) -> None:
    """Raises `Violation` unless it holds."""
    if not holds:
        raise Violation(f"{what}: {', '.join(map(repr, found))}")


@dataclass(frozen=True)
class View:
    """Everything about the lifecycle, at one moment."""

    rollouts: dict[str, Rollout] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)

    @classmethod
    async def of(cls, store: Store) -> View:
        """Looks at a store; it has no more rollouts than fit into one page."""
        rollouts = (await store.rollouts.list(limit=ENOUGH)).items
        attempts = await store.rollouts.attempts([rollout.id for rollout in rollouts])
        return cls({each.id: each for each in rollouts}, {each.id: each for each in attempts})


class Watch:
    """Makes calls on a store, looks at it before and after each, and compares.

    Args:
        store: Its only users call it through here.
        clock: The store's.
        on_violation: Is told of a violation that a call found, which the caller may swallow.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        on_violation: Callable[[Violation], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_violation = on_violation
        self._last = View()
        self._promised: dict[str, float] = {}
        self._by_hand: set[str] = set()
        self._by_key: dict[str, tuple[str, ...]] = {}
        self._leased: dict[str, str | None] = {}
        self._completed: list[str] = []
        self.calls = 0

    async def call(self, part: str, method: str, *args: Any, **options: Any) -> Any:
        """Calls a method; raises what it raises, or `Violation`."""
        try:
            return await self._call(part, method, *args, **options)
        except Violation as violation:
            self._on_violation(violation)
            raise

    async def _call(self, part: str, method: str, *args: Any, **options: Any) -> Any:
        self.calls += 1
        before = await self.look()
        error: BaseException | None = None
        result: Any = None
        try:
            result = await getattr(getattr(self._store, part), method)(*args, **options)
        except Exception as raised:  # noqa: BLE001 - checked below and raised again
            error = raised
        if error is None:
            self._note(method, args, result)
        after = await self.look()
        check = _CHECKS.get((part, method))
        if check is not None:
            check(self, before, after, result, error, *args, **options)
        if error is not None:
            raise error
        return result

    async def look(self) -> View:
        """Compares the store to what it was."""
        await self._store.sweep()
        now = self._clock()
        old, new = self._last, await View.of(self._store)
        lost = [*(old.rollouts.keys() - new.rollouts.keys()), *(old.attempts.keys() - new.attempts.keys())]
        require(not lost, "rollouts or attempts were lost", lost)
        for rollout in new.rollouts.values():
            _check_rollout(old.rollouts.get(rollout.id), rollout)
        by_rollout: dict[str, list[Attempt]] = {name: [] for name in new.rollouts}
        for attempt in new.attempts.values():
            by_rollout[attempt.rollout_id].append(attempt)
            self._check_attempt(old.attempts.get(attempt.id), attempt, now=now)
        for name, attempts in by_rollout.items():
            _check_together(new.rollouts[name], attempts)
        await self._check_completions(new)
        self._last = new
        return new

    async def check_spans(self, acknowledged: Mapping[str, set[str]]) -> None:
        """Compares all spans with those acknowledged, by attempt: all there, once, numbered without gaps."""
        page = await self._store.spans.page(SpanQuery(include_late=True), limit=ENOUGH)
        found: dict[str, list[Any]] = {}
        for span in page.items:
            found.setdefault(span.attempt_id, []).append(span)
        for name, spans in found.items():
            require(
                [each.sequence for each in spans] == list(range(1, len(spans) + 1)), "a gap in spans of", name
            )
            require(len({each.span_id for each in spans}) == len(spans), "a span is there twice in", name)
        for name, ids in acknowledged.items():
            lost = ids - {each.span_id for each in found.get(name, [])}
            require(not lost, "acknowledged spans were lost", name, lost)

    def _note(self, method: str, args: tuple[Any, ...], result: Any) -> None:
        if method == "heartbeat":
            self._promised[args[0]] = result.expires_at
        elif method == "finish":
            self._by_hand.add(args[0])
        elif method == "lease":
            for lease in result:
                self._promised.setdefault(lease.attempt.id, lease.attempt.expires_at)

    def _check_attempt(self, old: Attempt | None, new: Attempt, *, now: float) -> None:
        if old is not None:
            moved = new.status == old.status or new.status in ATTEMPT_MOVES[old.status]
            require(moved, "an illegal move of an attempt", old, new)
            require(new.token == old.token and new.worker == old.worker, "an attempt changed hands", old, new)
            require(not attempt_ended(old.status) or new == old, "an ended attempt changed", old, new)
        if not attempt_ended(new.status):
            due = new.expires_at if new.deadline_at is None else min(new.expires_at, new.deadline_at)
            require(now < due, f"an attempt is open at {now}, after its end", new)
        promised = self._promised.get(new.id)
        require(
            promised is None or promised == new.expires_at, f"{promised} was promised as the lease's end", new
        )
        if new.id in self._by_hand or new.finished_at is None:
            return
        if new.status is AttemptStatus.LOST:
            require(new.expires_at <= new.finished_at, "a lease was lost before its end", new)
        elif new.status is AttemptStatus.TIMED_OUT:
            over = new.deadline_at is not None and new.deadline_at <= new.finished_at
            require(over, "timed out before its deadline", new)

    async def _check_completions(self, view: View) -> None:
        fresh = await self._store.rollouts.completions(after=len(self._completed), limit=ENOUGH)
        for completion in fresh:
            self._completed.append(completion.rollout.id)
            require(completion.cursor == len(self._completed), "a gap in completions", completion)
            require(rollout_ended(completion.rollout.status), "completed but not terminal", completion)
        terminal = sorted(each.id for each in view.rollouts.values() if rollout_ended(each.status))
        require(terminal == sorted(self._completed), "completions differ from what is terminal", terminal)

    def check_lease(
        self, before: View, after: View, result: Any, error: BaseException | None, *args: Any, **options: Any
    ) -> None:
        key = options.get("idempotency_key")
        if key is not None and result is not None:
            names = tuple(lease.attempt.id for lease in result)
            held = [
                name for name in self._by_key.get(key, ()) if not attempt_ended(before.attempts[name].status)
            ]
            require(not held or held == list(names), "a repeated lease took something else", key, held, names)
            if names and not held:
                self._by_key[key] = names
        for lease in result or ():
            name = lease.attempt.id
            known = self._leased.setdefault(name, key)
            repeated = known is not None and known == key
            require(name not in before.attempts or repeated, "an attempt was leased twice", lease)
            require(lease.attempt.worker == args[0], "a lease of another worker", lease)
            require(name in after.attempts, "a lease without its attempt", lease)

    def check_heartbeat(
        self, before: View, after: View, result: Any, error: BaseException | None, *args: Any, **options: Any
    ) -> None:
        old = before.attempts.get(args[0])
        if old is None:
            return
        valid = old.token == options["token"] and not attempt_ended(old.status)
        if error is None and not result.cancelled:
            require(valid, "a stale heartbeat was taken", old, options)
            expected = self._clock() + options["ttl_s"]
            require(
                after.attempts[old.id].expires_at == result.expires_at == expected,
                "a wrong lease end",
                result,
            )
        elif isinstance(error, LeaseLost):
            require(not valid, "a good heartbeat was refused", old, options)

    def check_finish(
        self, before: View, after: View, result: Any, error: BaseException | None, *args: Any, **options: Any
    ) -> None:
        old = before.attempts.get(args[0])
        if old is None:
            return
        failure: Failure | None = options.get("failure")
        ending = attempt_ending(None if failure is None else failure.kind)
        output = options.get("output")
        right = old.token == options["token"]
        valid = right and not attempt_ended(old.status)
        repeated = right and (old.status, old.output, old.failure) == (ending, output, failure)
        new = after.attempts[old.id]
        if error is None:
            require(valid or repeated, "a stale writer finished", old, options)
            require(
                (new.status, new.output, new.failure) == (ending, output, failure), "not what was asked", new
            )
            require(result == after.rollouts[old.rollout_id], "the answer is not the rollout", result)
        elif isinstance(error, LeaseLost):
            require(not valid and not repeated, "a good finish was refused", old, options)
            require(after == before, "a refused finish changed something", old)

    def check_append(
        self, before: View, after: View, result: Any, error: BaseException | None, *args: Any, **options: Any
    ) -> None:
        require(after == before, "spans moved a rollout", result)
        spans = args[0]
        if error is not None or len({span.attempt_id for span in spans}) != 1:
            return
        old, token = before.attempts[spans[0].attempt_id], options.get("token")
        late = attempt_ended(old.status) or (token is not None and token < old.token)
        require(not (result.stored if late else result.late), "late spans must be told apart", old, result)
        require(
            result.stored + result.late + result.duplicates == len(spans), "spans were not counted", result
        )

    def check_cancel(
        self, before: View, after: View, result: Any, error: BaseException | None, *args: Any, **options: Any
    ) -> None:
        for name in args[0] if error is None else ():
            old, new = before.rollouts[name], after.rollouts[name]
            expected = old.status if rollout_ended(old.status) else RolloutStatus.CANCELLED
            require(new.status is expected, "cancel did something else", old, new)


_CHECKS: dict[tuple[str, str], Callable[..., None]] = {
    ("rollouts", "lease"): Watch.check_lease,
    ("rollouts", "heartbeat"): Watch.check_heartbeat,
    ("rollouts", "finish"): Watch.check_finish,
    ("rollouts", "cancel"): Watch.check_cancel,
    ("spans", "append"): Watch.check_append,
}


def _check_rollout(old: Rollout | None, new: Rollout) -> None:
    require(new.attempts <= new.config.max_attempts, "more attempts than allowed", new)
    if old is None:
        return
    require(not rollout_ended(old.status) or new == old, "a terminal rollout changed", old, new)
    require(new.attempts >= old.attempts, "attempts became fewer", old, new)
    legal = new.status == old.status or new.status in ROLLOUT_MOVES[old.status]
    # a call may sweep and then lease or end what it swept: queued or running again on the way
    legal = legal or (new.attempts > old.attempts and not rollout_ended(old.status))
    require(legal, "an illegal move of a rollout", old, new)


def _check_together(rollout: Rollout, attempts: list[Attempt]) -> None:
    require(
        [each.sequence for each in attempts] == list(range(1, rollout.attempts + 1)),
        "attempts miscounted",
        rollout,
    )
    tokens = [each.token for each in attempts]
    require(tokens == sorted(set(tokens)), "tokens do not rise", rollout, tokens)
    is_open = [not attempt_ended(each.status) for each in attempts]
    require(not any(is_open[:-1]), "two live attempts of", rollout, attempts)
    running = rollout.status is RolloutStatus.RUNNING
    require(
        running == (bool(is_open) and is_open[-1]), "running without a live attempt, or the reverse", rollout
    )
    succeeded = [each for each in attempts if each.status is AttemptStatus.SUCCEEDED]
    require(len(succeeded) <= 1, "succeeded twice", rollout, attempts)
    require((rollout.status is RolloutStatus.SUCCEEDED) == bool(succeeded), "success without one", rollout)
    for each in attempts[:-1]:
        kind = None if each.failure is None else each.failure.kind
        require(kind in rollout.config.retry_on, "tried again against its config", rollout, each)
    if rollout.status is RolloutStatus.FAILED and rollout.failure is not None:
        retried = rollout.failure.kind in rollout.config.retry_on
        require(
            not (retried and rollout.attempts < rollout.config.max_attempts), "given up too early", rollout
        )
        require(rollout.failure.kind is not FailureClass.CANCELLED, "cancelled is not failed", rollout)
