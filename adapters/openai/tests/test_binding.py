"""Binding: the rollout's endpoint, nothing of the user's, and the client as it was."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import Any

import openai
import pytest

from agentlightning.capture import in_rollout
from agentlightning.errors import TargetError
from agentlightning.testing import ScriptedLLM
from lightning_adapter_openai import OpenAIAdapter
from lightning_adapter_openai.hooks import agl_register_adapters

MESSAGES = [{"role": "user", "content": "hi"}]


def transport() -> openai.DefaultHttpxClient:
    return openai.DefaultHttpxClient(verify=False)


def test_no_credential_of_the_user_reaches_the_endpoint(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Env-Secret: hush-env\nAuthorization: Bearer hush-too")
    client = openai.OpenAI(
        api_key="hush",
        organization="hush-org",
        project="hush-project",
        default_headers={"Authorization": "Bearer hush", "api-key": "hush", "X-Harmless": "1"},
        default_query={"code": "hush"},
        http_client=transport(),
    )
    with client, in_rollout(stage.rollout()):
        client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            extra_headers={
                "authorization": "hush",
                "Cookie": "hush",
                "X-Auth-Token": "hush",
                "Idempotency-Key": "i",
            },
        )
    (request,) = stage.llm.requests
    assert "hush" not in repr(request.headers) + request.path
    assert request.headers["authorization"] == "Bearer key-a"
    assert request.headers["idempotency-key"] == "i"


def test_the_client_is_the_same_afterwards(stage: Any) -> None:
    client = openai.OpenAI(api_key="mine", base_url="http://127.0.0.1:9/v1", http_client=transport())
    before = {name: repr(value) for name, value in vars(client).items()}
    chat = client.chat.completions
    for name in ("a", "b"):
        with in_rollout(stage.rollout(model=name)):
            client.chat.completions.create(model="m", messages=MESSAGES)
    after = {name: repr(value) for name, value in vars(client).items() if name in before}
    assert after == before
    assert client.chat.completions is chat
    assert [request.json["model"] for request in stage.llm.requests] == ["a", "b"]
    client.close()


def test_an_async_client_outlives_event_loops(stage: Any) -> None:
    client = openai.AsyncOpenAI(api_key="mine", http_client=openai.DefaultAsyncHttpxClient(verify=False))

    async def run() -> list[str | None]:
        with in_rollout(stage.rollout()):
            calls = [client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(4)]
            answers = await asyncio.gather(*calls)
        return [answer.choices[0].message.content for answer in answers]

    assert [asyncio.run(run()) for _ in range(3)] == [["ok"] * 4] * 3


def test_a_proxy_of_the_environment_is_not_asked_for_endpoints(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with openai.OpenAI(api_key="mine", http_client=transport()) as client, in_rollout(stage.rollout()):
        assert client.chat.completions.create(model="m", messages=MESSAGES).choices


def test_what_the_users_transport_adds_does_not_reach_the_endpoint(stage: Any) -> None:
    own = openai.DefaultHttpxClient(verify=False, headers={"X-Secret": "hush"}, auth=("hush", "hush"))
    with openai.OpenAI(api_key="mine", http_client=own) as client, in_rollout(stage.rollout()):
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert "hush" not in repr(stage.llm.requests[0].headers)
    assert stage.llm.requests[0].headers["authorization"] == "Bearer key-a"


def test_twins_are_gone_with_their_rollout(stage: Any) -> None:
    with openai.OpenAI(api_key="mine", http_client=transport()) as client:
        context = stage.rollout()
        with in_rollout(context):
            client.chat.completions.create(model="m", messages=MESSAGES)
        gone = weakref.ref(context)
        del context
        gc.collect()
        assert gone() is None


def test_the_model_is_the_agents_own_unless_the_endpoint_names_one(stage: Any) -> None:
    with openai.OpenAI(api_key="mine", http_client=transport()) as client, in_rollout(stage.rollout()):
        client.chat.completions.create(model="chosen", messages=MESSAGES)
    assert stage.llm.requests[0].json["model"] == "chosen"
    assert stage.span.name == "chat chosen"


def test_azure_clients_are_bound(stage: Any) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint="https://hush.invalid", api_key="hush", api_version="1", http_client=transport()
    )
    with client, in_rollout(stage.rollout()):
        client.chat.completions.create(model="m", messages=MESSAGES)
    (request,) = stage.llm.requests
    assert request.path == "/v1/chat/completions"
    assert "hush" not in repr(request.headers)


def test_clients_with_a_constructor_of_their_own_are_bound(stage: Any) -> None:
    class Ours(openai.OpenAI):
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant
            super().__init__(api_key=tenant, http_client=transport())

    with Ours("acme") as client, in_rollout(stage.rollout()):
        assert client.chat.completions.create(model="m", messages=MESSAGES).choices


def test_a_client_without_a_key_works_in_rollouts_and_says_what_is_missing_outside(stage: Any) -> None:
    with openai.OpenAI(http_client=transport(), base_url=stage.llm.base_url) as client:
        with in_rollout(stage.rollout()):
            assert client.chat.completions.create(model="m", messages=MESSAGES).choices
        for call in (
            lambda: client.chat.completions.create(model="m", messages=MESSAGES),
            client.models.list,
        ):
            with pytest.raises(openai.OpenAIError, match="only works inside of a rollout"):
                call()
    assert len(stage.llm.requests) == 1


async def test_an_async_client_without_a_key_does_the_same(stage: Any) -> None:
    http_client = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(http_client=http_client) as client:
        with in_rollout(stage.rollout()):
            assert (await client.chat.completions.create(model="m", messages=MESSAGES)).choices
        with pytest.raises(openai.OpenAIError, match="only works inside of a rollout"):
            await client.chat.completions.create(model="m", messages=MESSAGES)


def test_a_key_that_comes_later_is_used(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai.OpenAI(http_client=transport(), base_url=stage.llm.base_url) as client:
        monkeypatch.setenv("OPENAI_API_KEY", "late")
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert stage.llm.requests[0].headers["authorization"] == "Bearer late"


def test_without_the_adapter_a_missing_key_is_refused_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(openai.OpenAIError):
        openai.OpenAI()


@pytest.mark.xfail(strict=True, reason="only methods that ask a model are bound, not requests made by hand")
def test_a_request_made_by_hand_goes_to_the_endpoint(stage: Any) -> None:
    with (
        ScriptedLLM() as own,
        openai.OpenAI(api_key="mine", base_url=own.base_url, http_client=transport()) as client,
        in_rollout(stage.rollout()),
    ):
        client.post("/chat/completions", body={"model": "m", "messages": MESSAGES}, cast_to=object)
    assert len(stage.llm.requests) == 1


def test_a_rollout_without_an_endpoint_leaves_clients_alone(stage: Any) -> None:
    with (
        ScriptedLLM() as own,
        openai.OpenAI(api_key="mine", base_url=own.base_url, http_client=transport()) as client,
        in_rollout(replace(stage.rollout(), endpoint=None)),
    ):
        client.chat.completions.create(model="m", messages=MESSAGES)
        (request,) = own.requests
    assert request.headers["authorization"] == "Bearer mine"
    assert "traceparent" not in request.headers
    assert stage.span.attributes["gen_ai.output.messages"]


def test_the_adapter_has_no_agents_of_its_own(stage: Any) -> None:
    adapter = OpenAIAdapter()
    with adapter.bind("agent", stage.rollout()) as bound:
        assert bound == "agent"
    with pytest.raises(TargetError, match="has none"):
        adapter.as_function("agent")


def test_the_hook_names_the_adapter() -> None:
    (spec,) = agl_register_adapters()
    assert (spec.name, spec.module, spec.requires) == ("openai", "openai", ("openai>=2,<4",))
    assert spec.target == "lightning_adapter_openai:OpenAIAdapter"
