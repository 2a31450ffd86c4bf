"""A call has one effect, wherever its connection breaks and however often it is delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from agentlightning.store import (
    Retention,
    RolloutQuery,
    RunRecord,
    SpanQuery,
    Store,
)
from agentlightning.store.wire import routes
from agentlightning.testing import FaultProxy, Faults
from agentlightning.types import (
    AttemptStatus,
    Lease,
    MetricPoint,
    PromptTemplate,
    ResourceState,
    RolloutRequest,
    RolloutStatus,
    Run,
    RunEvent,
    RunKind,
    RunStatus,
    Span,
    SpanSource,
)

Scenario = Callable[[Store, Store, int], Awaitable[None]]
"""Makes one call through the first store, and looks through the second at what it came to."""


async def enqueue(store: Store, inside: Store, number: int) -> None:
    made = await store.rollouts.enqueue([RolloutRequest(task=number, group=f"enqueue{number}")] * 2)
    found = await inside.rollouts.list(RolloutQuery(group=f"enqueue{number}"))
    assert [rollout.id for rollout in found.items] == [rollout.id for rollout in made]
    assert len(made) == 2
    await inside.rollouts.cancel([rollout.id for rollout in made])


async def lease(store: Store, inside: Store, number: int) -> None:
    queued = await inside.rollouts.enqueue([RolloutRequest(task=number, run_id="lease")] * 2)
    (taken,) = await store.rollouts.lease("worker", run_id="lease")
    attempts = await inside.rollouts.attempts([rollout.id for rollout in queued])
    assert [attempt.id for attempt in attempts] == [taken.attempt.id]
    await inside.rollouts.cancel([rollout.id for rollout in queued])


async def leased(inside: Store) -> Lease:
    await inside.rollouts.enqueue([RolloutRequest(task="work", run_id="leased")])
    (taken,) = await inside.rollouts.lease("worker", run_id="leased")
    return taken


async def heartbeat(store: Store, inside: Store, number: int) -> None:
    held = await leased(inside)
    await store.rollouts.heartbeat(held.attempt.id, token=held.attempt.token)
    (attempt,) = await inside.rollouts.attempts([held.rollout.id])
    assert attempt.status is AttemptStatus.RUNNING


async def finish(store: Store, inside: Store, number: int) -> None:
    held = await leased(inside)
    await store.rollouts.finish(held.attempt.id, token=held.attempt.token, output={"answer": number})
    assert (await inside.rollouts.get(held.rollout.id)).status is RolloutStatus.SUCCEEDED
    assert await completed(inside, held.rollout.id) == 1


async def cancel(store: Store, inside: Store, number: int) -> None:
    (queued,) = await inside.rollouts.enqueue([RolloutRequest(task=number)])
    await store.rollouts.cancel([queued.id], reason="enough")
    assert (await inside.rollouts.get(queued.id)).status is RolloutStatus.CANCELLED
    assert await completed(inside, queued.id) == 1


async def completed(inside: Store, rollout_id: str) -> int:
    """How often a rollout completed."""
    found = await inside.rollouts.completions(limit=10_000)
    return sum(completion.rollout.id == rollout_id for completion in found)


def span(held: Lease, number: int) -> Span:
    return Span(
        rollout_id=held.rollout.id,
        attempt_id=held.attempt.id,
        span_id=f"{number:016x}",
        trace_id="1" * 32,
        name="call",
        operation="chat",
        source=SpanSource.EMIT,
        start_ns=number,
        end_ns=number + 1,
    )


async def append(store: Store, inside: Store, number: int) -> None:
    held = await leased(inside)
    await store.spans.append([span(held, 1), span(held, 2)], token=held.attempt.token)
    page = await inside.spans.page(SpanQuery(attempt_ids=(held.attempt.id,)))
    assert [(one.span_id, one.sequence) for one in page.items] == [("0" * 15 + "1", 1), ("0" * 15 + "2", 2)]


async def publish(store: Store, inside: Store, number: int) -> None:
    made = await store.resources.publish(
        {"prompt": PromptTemplate(template=f"{number}")}, state=ResourceState.CANDIDATE, run_id=f"p{number}"
    )
    assert [one.id for one in await inside.resources.list(run_id=f"p{number}")] == [made.id]


async def move(store: Store, inside: Store, number: int) -> None:
    made = await inside.resources.publish(
        {"prompt": PromptTemplate(template="x")}, state=ResourceState.CANDIDATE
    )
    await store.resources.move(made.id, ResourceState.CANARY, weight=0.25)
    found = await inside.resources.get(made.id)
    assert (found.state, found.weight) == (ResourceState.CANARY, 0.25)


def run(run_id: str) -> Run:
    return Run(
        id=run_id,
        kind=RunKind.TRAIN,
        algorithm="none",
        status=RunStatus.RUNNING,
        config={},
        seed=0,
        created_at=1.0,
        updated_at=1.0,
        environment={},
        owner="me",
        expires_at=2e9,
    )


async def create(store: Store, inside: Store, number: int) -> None:
    await store.runs.create(run(f"create{number}"))
    assert (await inside.runs.get(f"create{number}")).owner == "me"


async def beat(store: Store, inside: Store, number: int) -> None:
    await inside.runs.create(run(f"beat{number}"))
    assert await store.runs.heartbeat(f"beat{number}", owner="me") is False


async def update(store: Store, inside: Store, number: int) -> None:
    await inside.runs.create(run(f"update{number}"))
    await store.runs.update(f"update{number}", status=RunStatus.SUCCEEDED, summary={"mean": 0.5})
    found = await inside.runs.get(f"update{number}")
    assert (found.status, found.summary) == (RunStatus.SUCCEEDED, {"mean": 0.5})


async def request_stop(store: Store, inside: Store, number: int) -> None:
    await inside.runs.create(run(f"stop{number}"))
    await store.runs.request_stop(f"stop{number}")
    assert await inside.runs.heartbeat(f"stop{number}", owner="me") is True


async def log(store: Store, inside: Store, number: int) -> None:
    await inside.runs.create(run(f"log{number}"))
    await store.runs.log(
        f"log{number}",
        points=[MetricPoint(name="loss", step=1, value=0.5, time=1.0)],
        events=[RunEvent(kind="note", message="once", time=1.0)],
    )
    assert len(await inside.runs.metrics(f"log{number}")) == 1
    assert [event.message for event in await inside.runs.events(f"log{number}")] == ["once"]


async def sweep(store: Store, inside: Store, number: int) -> None:
    assert await store.sweep() == 0


async def trim(store: Store, inside: Store, number: int) -> None:
    kept = await leased(inside)
    await store.trim(Retention(max_rollouts=0))
    await inside.rollouts.get(kept.rollout.id)
    assert (await inside.statistics()).rollouts[RolloutStatus.SUCCEEDED] == 0


async def load(store: Store, inside: Store, number: int) -> None:
    await store.load([RunRecord(run=run(f"load{number}"))])
    assert (await inside.runs.get(f"load{number}")).status is RunStatus.INTERRUPTED


SCENARIOS: dict[str, Scenario] = {
    "rollouts/enqueue": enqueue,
    "rollouts/lease": lease,
    "rollouts/heartbeat": heartbeat,
    "rollouts/finish": finish,
    "rollouts/cancel": cancel,
    "spans/append": append,
    "resources/publish": publish,
    "resources/move": move,
    "runs/create": create,
    "runs/heartbeat": beat,
    "runs/update": update,
    "runs/request_stop": request_stop,
    "runs/log": log,
    "store/sweep": sweep,
    "store/trim": trim,
    "store/load": load,
}
each_method = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())


def test_every_method_that_writes_has_its_scenario() -> None:
    writing = {f"{route.part}/{route.method}" for route in routes().values() if route.writes}
    assert writing == SCENARIOS.keys()


async def break_everywhere(
    scenario: Scenario, store: Store, inside: Store, proxy: FaultProxy, *, step: int
) -> int:
    """Breaks the call's connection at every so many bytes of the request, then of the answer; how often it broke."""
    number = 0
    for side in ("cut_request_at", "cut_answer_at"):
        for at in range(0, 100_000, step):
            broken, number = proxy.broken, number + 1
            proxy.cut()
            proxy.faults = Faults(**{side: at}, times=1)
            await scenario(store, inside, number)
            if proxy.broken == broken:  # it was over before so many bytes had passed
                assert at
                break
    return number - 2


@each_method
async def test_a_connection_that_breaks_costs_nothing(
    scenario: Scenario, store: Store, inside: Store, proxy: FaultProxy
) -> None:
    assert await break_everywhere(scenario, store, inside, proxy, step=61) > 5


@pytest.mark.slow
@each_method
async def test_a_connection_that_breaks_at_any_byte_costs_nothing(
    scenario: Scenario, store: Store, inside: Store, proxy: FaultProxy
) -> None:
    assert await break_everywhere(scenario, store, inside, proxy, step=1) > 300


@each_method
async def test_a_request_that_is_delivered_twice_has_one_effect(
    scenario: Scenario, store: Store, inside: Store, proxy: FaultProxy
) -> None:
    proxy.cut()
    proxy.faults = Faults(duplicate=True)
    for number in range(5):
        await scenario(store, inside, number)
