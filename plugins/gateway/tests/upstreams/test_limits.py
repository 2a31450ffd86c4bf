from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from upstreams_bench import IMPATIENT, Opened, ask, until

from agentlightning.testing import ScriptedAnswer, ScriptedLLM
from lightning_plugin_gateway._errors import ApiError

HOLD = ScriptedAnswer(text="ok", hold_after=0)


async def settled(model: Any, **counts: int) -> None:
    """Waits until the model's status has these counts."""
    await until(lambda: all(getattr(model.status(), name) == count for name, count in counts.items()))


async def test_no_server_gets_more_calls_than_it_may_and_all_are_answered(opened: Opened) -> None:
    with ScriptedLLM(lambda _: HOLD) as first, ScriptedLLM(lambda _: HOLD) as second:
        async with opened(first.base_url, second.base_url, max_concurrency=3) as model:
            calls = [asyncio.create_task(ask(model, f"r{number}")) for number in range(20)]
            await settled(model, in_flight=6, waiting=14)
            assert [server.in_flight for server in model.status().servers] == [3, 3]
            await asyncio.to_thread(first.wait_held, 3)
            await asyncio.to_thread(second.wait_held, 3)
            assert (len(first.requests), len(second.requests)) == (3, 3)
            first.let_go()
            second.let_go()
            assert await asyncio.gather(*calls) == ["ok"] * 20
            assert (model.status().in_flight, model.status().waiting) == (0, 0)


async def test_rollouts_take_turns_however_much_one_asks(opened: Opened) -> None:
    order: list[str] = []

    async def call(model: Any, rollout: str) -> None:
        await ask(model, rollout)
        order.append(rollout)

    with ScriptedLLM(lambda _: HOLD) as llm:
        async with opened(llm.base_url, max_concurrency=1) as model, asyncio.TaskGroup() as group:
            group.create_task(call(model, "first"))
            await settled(model, in_flight=1)
            for place, rollout in enumerate(["greedy"] * 10 + ["a", "b", "a"], start=1):
                group.create_task(call(model, rollout))
                await settled(model, waiting=place)
            llm.let_go()
    assert order == ["first", "greedy", "a", "b", "greedy", "a", *["greedy"] * 8]


async def test_a_full_line_refuses_with_429_and_when_to_come_back(opened: Opened) -> None:
    with ScriptedLLM(lambda _: HOLD) as llm:
        policy = msgspec.structs.replace(IMPATIENT, max_waiting=2)
        async with opened(llm.base_url, policy=policy, max_concurrency=1) as model:
            calls = [asyncio.create_task(ask(model, f"r{number}")) for number in range(3)]
            await settled(model, in_flight=1, waiting=2)
            with pytest.raises(ApiError, match="2 calls wait for this model already") as caught:
                await ask(model)
            assert (caught.value.status, caught.value.fault, caught.value.retry_after) == (
                429,
                "upstream_busy",
                "1",
            )
            llm.let_go()
            assert await asyncio.gather(*calls) == ["ok"] * 3
            assert (model.status().calls, model.status().failures) == (4, 1)


async def test_a_client_that_leaves_the_line_or_its_call_gives_its_place_to_the_next(opened: Opened) -> None:
    with ScriptedLLM(lambda _: HOLD) as llm:
        async with opened(llm.base_url, max_concurrency=1) as model:
            calls = [asyncio.create_task(ask(model, f"r{number}")) for number in range(4)]
            await settled(model, in_flight=1, waiting=3)
            await asyncio.to_thread(llm.wait_held)
            calls[1].cancel()
            await settled(model, waiting=2)
            calls[0].cancel()
            await settled(model, waiting=1, in_flight=1)
            await asyncio.to_thread(llm.wait_left, 1)
            llm.let_go()
            assert await asyncio.gather(*calls[2:]) == ["ok", "ok"]
            assert (model.status().in_flight, model.status().waiting) == (0, 0)


async def test_time_in_line_counts_against_the_deadline(opened: Opened) -> None:
    with ScriptedLLM(lambda _: HOLD) as llm:
        async with opened(llm.base_url, max_concurrency=1) as model:
            first = asyncio.create_task(ask(model))
            await settled(model, in_flight=1)
            with pytest.raises(ApiError, match="within the time") as caught:
                await ask(model, "r2", deadline=asyncio.get_running_loop().time() + 0.05)
            assert (caught.value.status, caught.value.fault) == (504, "timeout")
            assert model.status().waiting == 0
            llm.let_go()
            assert await first == "ok"
