from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import openai
import pytest

from agentlightning.gateway import AttemptGrant, GatewayConfig, HttpUpstream, Sampling
from agentlightning.testing import ScriptedLLM
from agentlightning.types import Mode, ModelEndpoint, PromptTemplate, Resource, RolloutRequest

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO = [{"role": "user", "content": "hello"}]
SYSTEM = [{"role": "system", "content": "the agent's own"}, {"role": "developer", "content": "more"}]


@asynccontextmanager
async def pinned(
    bench: Any, resources: dict[str, Resource], **grant: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    """An SDK with the key of an attempt whose rollout pins these resources."""
    found = await bench.store.resources.publish(resources)
    await bench.store.rollouts.enqueue([RolloutRequest(task=None, id="pinned", resources=found.id)])
    (lease,) = await bench.store.rollouts.lease("tests")
    attempt = lease.attempt
    key = bench.gateway.issue_key(
        AttemptGrant(
            rollout_id="pinned", attempt_id=attempt.id, token=attempt.token, mode=Mode.TRAIN, **grant
        )
    )
    async with bench.sdk(key) as sdk:
        yield sdk


async def test_an_attempts_resources_name_its_model_and_system_prompt(serve: Serve) -> None:
    endpoint = ModelEndpoint(model="better", temperature=0.3, max_tokens=7, base_url="http://127.0.0.1:1/v1")
    resources = {"gateway.model": endpoint, "gateway.system": PromptTemplate(template="Be brief: {x}.")}
    async with serve() as bench, pinned(bench, resources, models=("m",)) as sdk:
        await sdk.chat.completions.create(model="m", messages=[*SYSTEM, *HELLO], temperature=1.0)
        sent = bench.llm.requests[0].json
        (span,) = await bench.spans()
    assert sent["messages"] == [{"role": "system", "content": "Be brief: {x}."}, *HELLO]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("better", 0.3, 7)
    assert span.attributes["gen_ai.input.messages"] == sent["messages"]
    assert span.attributes["gen_ai.request.model"] == "m"
    assert span.attributes["gen_ai.response.model"] == "better"


async def test_resources_of_other_names_change_nothing_and_the_mode_has_the_last_word(serve: Serve) -> None:
    resources = {
        "system": PromptTemplate(template="for the agent to render"),
        "gateway.model": ModelEndpoint(model="m", temperature=0.3),
    }
    config = GatewayConfig(sampling={Mode.TRAIN: Sampling(temperature=1.0)})
    async with serve(config=config) as bench, pinned(bench, resources) as sdk:
        await sdk.chat.completions.create(model="m", messages=[*SYSTEM, *HELLO])
        sent = bench.llm.requests[0].json
    assert (sent["messages"], sent["temperature"]) == ([*SYSTEM, *HELLO], 1.0)


async def test_a_model_that_no_upstream_serves_is_told(serve: Serve) -> None:
    with ScriptedLLM() as llm:
        resources = {"gateway.model": ModelEndpoint(model="nowhere")}
        async with (
            serve(upstreams={"m": HttpUpstream(base_url=llm.base_url)}) as bench,
            pinned(bench, resources) as sdk,
        ):
            with pytest.raises(openai.NotFoundError, match="'nowhere'"):
                await sdk.chat.completions.create(model="m", messages=HELLO)


async def test_a_reserved_name_of_another_kind_is_told(serve: Serve) -> None:
    resources = {"gateway.system": ModelEndpoint(model="m")}
    async with serve() as bench, pinned(bench, resources) as sdk:
        with pytest.raises(openai.InternalServerError, match="must be of kinds 'model' and 'prompt'"):
            await sdk.chat.completions.create(model="m", messages=HELLO)


async def test_prompts_are_counted_as_they_would_be_sent(serve: Serve) -> None:
    resources = {
        "gateway.model": ModelEndpoint(model="better"),
        "gateway.system": PromptTemplate(template="Be brief."),
    }
    async with serve() as bench, pinned(bench, resources, models=("m",)) as sdk:
        body = {"model": "m", "messages": HELLO, "system": "a long instruction of the agent's own"}
        counted = await sdk.post("/messages/count_tokens", body=body, cast_to=object)
        sent = bench.llm.requests[0].json
    assert counted["input_tokens"] > 0
    assert sent["model"] == "better"
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
