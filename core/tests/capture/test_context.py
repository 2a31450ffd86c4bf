from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from agentlightning.capture import Endpoint, RolloutContext, current_rollout, environment_carriers, in_rollout

Make = Callable[..., RolloutContext]


def test_there_is_no_rollout_outside_of_one() -> None:
    assert current_rollout() is None


def test_a_block_runs_in_its_rollout_and_leaves_it(make_rollout: Make) -> None:
    outer, inner = make_rollout("a"), make_rollout("b")
    with in_rollout(outer):
        with in_rollout(inner):
            assert current_rollout() is inner
        assert current_rollout() is outer
    assert current_rollout() is None


async def test_concurrent_tasks_each_see_their_own(make_rollout: Make) -> None:
    async def run(name: str) -> str | None:
        with in_rollout(make_rollout(name)):
            for _ in range(3):
                await asyncio.sleep(0)
            found = current_rollout()
            return found.attempt_id if found else None

    names = [f"a{number}" for number in range(16)]
    assert await asyncio.gather(*map(run, names)) == names


def test_threads_with_a_copied_context_are_in_the_rollout(make_rollout: Make) -> None:
    context = make_rollout()
    with ThreadPoolExecutor(1) as threads, in_rollout(context):
        assert threads.submit(copy_context().run, current_rollout).result() is context


def test_whoever_carries_opentelemetry_context_carries_the_rollout(make_rollout: Make) -> None:
    def elsewhere(carried: Context) -> RolloutContext | None:
        token = otel_context.attach(carried)
        try:
            return current_rollout()
        finally:
            otel_context.detach(token)

    context = make_rollout()
    with ThreadPoolExecutor(1) as threads, in_rollout(context):
        assert threads.submit(elsewhere, otel_context.get_current()).result() is context


def test_baggage_has_the_ids(make_rollout: Make) -> None:
    with in_rollout(make_rollout("a7")):
        assert baggage.get_all() == {"agl.rollout.id": "r1", "agl.attempt.id": "a7"}
    assert baggage.get_all() == {}


def test_environment_carriers_bind_a_child_process_and_carry_no_key(make_rollout: Make) -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:1/v1", api_key="sesame")
    context = make_rollout("a,7", endpoint=endpoint)
    with in_rollout(context):
        carriers = environment_carriers(context, environment={"OTEL_RESOURCE_ATTRIBUTES": "service.name=x"})
    assert carriers == {
        "BAGGAGE": "agl.rollout.id=r1,agl.attempt.id=a%2C7",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=x,agl.rollout.id=r1,agl.attempt.id=a%2C7",
    }
    assert "sesame" not in repr(context)
