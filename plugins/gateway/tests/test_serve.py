"""`agl serve --upstream`: the gateway in a process of its own, and several of them in front of one store."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import openai
import pytest

from agentlightning import semconv
from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.pipeline._join import Join
from agentlightning.store import SpanQuery, open_store
from agentlightning.testing import ScriptedAnswer, ScriptedLLM, ScriptedRequest
from agentlightning.types import Episode, Experience, Mode, RolloutRequest, RolloutStatus

HttpStore = pytest.importorskip("lightning_plugin_server", reason="`agl serve` is the server's").HttpStore

AGL = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())")
SECRET = "a secret of the tests"
HELLO = [{"role": "user", "content": "hello"}]


async def start(*arguments: str) -> Process:
    environment = {**os.environ, "AGL_KEY": SECRET}
    return await asyncio.create_subprocess_exec(
        *AGL, "serve", *arguments, stdout=PIPE, stderr=PIPE, env=environment
    )


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """A server process and its URL."""
    process = await start("--port", "0", *arguments)
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    found = re.search(r"at (http\S+)", line)
    assert found, (await process.communicate())[1].decode()
    try:
        yield process, found[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def post(url: str, key: str, body: dict[str, object]) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--observe",), "--upstream"),
        (("--upstream", "m"), "MODEL=URL"),
        (("--upstream", "m=file:///etc/passwd"), "MODEL=URL"),
        (("--upstream", "m=http://a/v1", "--upstream", "m=http://b/v1"), "twice"),
    ],
)
async def test_options_that_cannot_be_used_are_told(arguments: tuple[str, ...], reason: str) -> None:
    process = await start("--port", "0", "--store", "memory://", *arguments)
    _, err = await process.communicate()
    assert process.returncode == 2
    assert reason in err.decode()


async def test_a_server_observes_live_traffic_and_records_an_attempts_calls(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/served.db"
    with ScriptedLLM(lambda _: ScriptedAnswer(text="hey")) as llm:
        async with serving("--store", url, "--upstream", f"m={llm.base_url}", "--observe") as (
            process,
            address,
        ):
            async with aiohttp.ClientSession() as http, http.get(address + "/healthz") as response:
                assert (response.status, await response.text()) == (200, "{}")
            async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=SECRET, max_retries=0) as sdk:
                answer = await sdk.chat.completions.create(model="m", messages=HELLO)
                stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
                assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "hey"
            assert answer.choices[0].message.content == "hey"
            assert (await post(f"{address}/v1/chat/completions", "wrong", {"model": "m", "messages": HELLO}))[
                0
            ] == 401
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
    async with open_store(url) as store:
        page = await store.rollouts.list(limit=10)
        assert [rollout.status for rollout in page.items] == [RolloutStatus.SUCCEEDED] * 2
        spans = (await store.spans.page(SpanQuery(operations=("chat",)))).items
    assert [span.tokens[0].incomplete for span in spans] == ["", ""]


async def test_a_server_that_stops_records_calls_in_flight_as_cancelled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/served.db"
    with ScriptedLLM([ScriptedAnswer(hold_after=0)]) as llm:
        async with serving("--store", url, "--upstream", f"m={llm.base_url}", "--observe") as (
            process,
            address,
        ):
            call = asyncio.create_task(
                post(f"{address}/v1/chat/completions", SECRET, {"model": "m", "messages": HELLO})
            )
            await asyncio.to_thread(llm.wait_held)
            process.send_signal(signal.SIGTERM)
            status, text = await call
            assert await asyncio.wait_for(process.wait(), 30) == 0
    assert (status, "shutting down" in text) == (503, True)
    async with open_store(url) as store:
        (span,) = (await store.spans.page(SpanQuery())).items
    assert span.attributes["agl.cancelled"] is True


async def test_two_gateway_processes_in_front_of_one_store_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_KEY", SECRET)

    def script(request: ScriptedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(text=request.json["messages"][-1]["content"] * 2)

    with ScriptedLLM(script) as llm:
        async with AsyncExitStack() as stack:
            _, store_url = await stack.enter_async_context(serving("--store", f"sqlite:///{tmp_path}/one.db"))
            gateways = [
                (
                    await stack.enter_async_context(
                        serving("--store", store_url, "--upstream", f"*={llm.base_url}", "--observe")
                    )
                )[1]
                for _ in range(2)
            ]
            store = await stack.enter_async_context(HttpStore(store_url))
            await store.rollouts.enqueue([RolloutRequest(task=None, id="r1")])
            (lease,) = await store.rollouts.lease("tests")
            key = KeyRing(SECRET).issue(
                Credential(
                    scope=Scope.AGENT,
                    rollout_id="r1",
                    attempt_id=lease.attempt.id,
                    token=lease.attempt.token,
                    mode=Mode.TRAIN,
                )
            )

            async def ask(number: int) -> str:
                messages = [{"role": "user", "content": f"q{number} "}]
                address = gateways[number % 2]
                async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as sdk:
                    stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True)
                    return "".join([part.choices[0].delta.content or "" async for part in stream])

            assert await asyncio.gather(*map(ask, range(20))) == [f"q{number} " * 2 for number in range(20)]
            # a retry that reaches the other process is answered from the record
            body: dict[str, object] = {"model": "m", "messages": HELLO}
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
                answers = []
                for address, mark in ((gateways[0], "0"), (gateways[1], "1")):
                    headers = {"x-stainless-retry-count": mark}
                    async with http.post(
                        f"{address}/v1/chat/completions", json=body, headers=headers
                    ) as response:
                        answers.append((await response.json())["choices"])
            assert answers[0] == answers[1]
            for address in gateways:
                assert (await post(f"{address}/v1/chat/completions", SECRET, body))[0] == 200
            spans = (await store.spans.page(SpanQuery(rollout_ids=("r1",), operations=("chat",)))).items
            page = await store.rollouts.list(limit=10)
    assert len(spans) == 21
    assert all(span.tokens[0].incomplete == "" for span in spans)
    assert sum(rollout.id.startswith("live-") for rollout in page.items) == 2


async def test_a_gateway_killed_with_calls_in_flight_leaves_no_answered_call_unrecorded(
    tmp_path: Path,
) -> None:
    def script(request: ScriptedRequest) -> ScriptedAnswer:
        last = request.json["messages"][-1]["content"]
        return ScriptedAnswer(text=last, chunk_chars=1, hold_after=2 if last == "held" else None)

    url = f"sqlite:///{tmp_path}/one.db"
    async with open_store(url) as store:
        await store.rollouts.enqueue([RolloutRequest(task=None, id="r1")])
        (lease,) = await store.rollouts.lease("tests", ttl_s=600)
    attempt = lease.attempt.id
    key = KeyRing(SECRET).issue(Credential(scope=Scope.AGENT, rollout_id="r1", attempt_id=attempt))
    answered: list[str] = []
    reading = asyncio.Semaphore(0)

    async def ask(sdk: openai.AsyncOpenAI, text: str) -> None:
        messages = [{"role": "user", "content": text}]
        stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True)  # type: ignore[arg-type]
        said = ""
        async for part in stream:
            if not said and (part.choices[0].delta.content or ""):
                reading.release()
            said += part.choices[0].delta.content or ""
        answered.append(said)

    def sdk_of(address: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)

    with ScriptedLLM(script) as llm:
        arguments = ("--store", url, "--upstream", f"m={llm.base_url}")
        async with serving(*arguments) as (process, address), sdk_of(address) as sdk:
            for number in range(5):
                await ask(sdk, f"q{number}")
                await reading.acquire()
            held = [asyncio.create_task(ask(sdk, "held")) for _ in range(5)]
            for _ in held:
                await reading.acquire()
            process.kill()
            failures = await asyncio.gather(*held, return_exceptions=True)
        async with serving(*arguments) as (_, address), sdk_of(address) as sdk:
            llm.let_go()
            await ask(sdk, "held")  # the attempt can go on at the next one, with the key that it has
    assert all(
        isinstance(failure, Exception) for failure in failures
    )  # the agent is told: no answer was whole
    async with open_store(url) as store:
        spans = (await store.spans.page(SpanQuery(attempt_ids=(attempt,)))).items
        (found,) = await store.rollouts.attempts(["r1"])
        rollout = await store.rollouts.get("r1")
    whole = [span for span in spans if span.operation == semconv.OPERATION_CHAT]
    recorded = [span.attributes["gen_ai.output.messages"][0]["content"] for span in whole]  # type: ignore[index]
    assert recorded == answered == [*(f"q{number}" for number in range(5)), "held"]
    assert all(span.tokens[0].incomplete == "" for span in whole)
    # the clients had read the beginnings of five answers: they are calls of the attempt, and cannot be trained
    episode = Episode(rollout=rollout, attempt=found, spans=tuple(spans))
    (joined,) = Join({})(Experience(episodes=(episode,))).episodes
    reasons = [span.tokens[0].incomplete for span in joined.spans if span.operation == semconv.OPERATION_CHAT]
    assert len(reasons) == 11
    assert sum("gateway ended" in reason for reason in reasons) == 5
    assert found.finished_at is None  # nobody but its runner ends it
