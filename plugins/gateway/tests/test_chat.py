from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from agentlightning.errors import GatewayError, LeaseLost, StoreUnavailable
from agentlightning.gateway import GatewayConfig, Sampling
from agentlightning.serving import bind
from agentlightning.store import SpanQuery, open_store
from agentlightning.testing import ScriptedAnswer, ScriptedRequest, ScriptedToolCall
from agentlightning.types import Mode, SpanSource, SpanStatus
from lightning_plugin_gateway import create_gateway

Serve = Callable[..., AbstractAsyncContextManager[Any]]

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


async def drain(sdk: openai.AsyncOpenAI) -> list[Any]:
    stream = await sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    return [chunk async for chunk in stream]


async def test_a_call_is_answered_and_recorded_with_its_tokens(serve: Serve) -> None:
    answer = ScriptedAnswer(text="  two  spaces\tand\n tab ")
    async with serve([answer]) as bench, bench.sdk() as sdk:
        completion = await sdk.chat.completions.create(
            model="m", messages=HELLO, temperature=0.5, tools=[TOOL]
        )
        assert completion.choices[0].message.content == answer.text
        (span,) = await bench.spans()
    assert (span.rollout_id, span.attempt_id, span.operation, span.source) == (
        "r1",
        bench.attempt(),
        "chat",
        SpanSource.GATEWAY,
    )
    assert span.status is SpanStatus.OK
    assert span.attributes["gen_ai.input.messages"] == HELLO
    assert span.attributes["gen_ai.output.messages"] == [{"role": "assistant", "content": answer.text}]
    assert span.attributes["gen_ai.response.id"] == completion.id
    assert span.attributes["gen_ai.tool.definitions"] == [TOOL]
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.usage.output_tokens"] == len(answer.ids)
    assert span.attributes["agl.policy.version"] == -1
    (tokens,) = span.tokens
    assert list(tokens.response_ids) == answer.ids
    assert list(tokens.prompt_ids) == answer.prompt_ids(HELLO)
    assert list(tokens.response_logprobs) == answer.ids_logprobs
    assert (tokens.incomplete, tokens.finish_reason) == ("", "stop")


def test_the_synchronous_sdk_is_served(serve: Serve) -> None:
    async def run() -> list[str | None]:
        async with serve([ScriptedAnswer(text="yes")]) as bench:
            return await asyncio.to_thread(ask, bench.gateway.base_url, bench.key())

    def ask(url: str, key: str) -> list[str | None]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
            chunks = list(sdk.chat.completions.create(model="m", messages=HELLO, stream=True))
            return [chunk.choices[0].delta.content for chunk in chunks]

    assert "".join(part or "" for part in asyncio.run(run())) == "yes"


async def test_the_client_sees_only_the_fields_it_asked_for(serve: Serve) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        plain = await sdk.chat.completions.create(model="m", messages=HELLO)
        full = await sdk.chat.completions.create(
            model="m", messages=HELLO, logprobs=True, extra_body={"return_token_ids": True}
        )
        assert (await bench.spans())[0].tokens == (await bench.spans())[1].tokens
        assert bench.llm.requests[0].json["return_token_ids"] is True
    assert plain.choices[0].logprobs is None
    assert {"prompt_token_ids", "token_ids"}.isdisjoint({**plain.to_dict(), **plain.to_dict()["choices"][0]})
    assert full.to_dict()["choices"][0]["token_ids"] == [*b"ok", 256]
    assert full.to_dict()["prompt_token_ids"]
    assert len(full.choices[0].logprobs.content) == 3


async def test_every_choice_has_its_tokens(serve: Serve) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        completion = await sdk.chat.completions.create(model="m", messages=HELLO, n=3)
        assert len(completion.choices) == 3
        assert [list(tokens.response_ids) for tokens in (await bench.spans())[0].tokens] == [
            [*b"ok", 256]
        ] * 3


async def test_the_span_hangs_below_the_callers_span(serve: Serve) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "baggage": "agl.rollout.id=other"}
    async with serve() as bench, bench.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
        await sdk.chat.completions.create(
            model="m", messages=HELLO, extra_headers={"traceparent": "nonsense"}
        )
        child, orphan = await bench.spans()
        assert "traceparent" not in bench.llm.requests[0].headers
    assert (child.trace_id, child.parent_id, child.rollout_id) == (trace, parent, "r1")
    assert orphan.parent_id is None
    assert len(orphan.trace_id) == 32


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ScriptedAnswer(text="x", token_ids=()), "no token ids"),
        (ScriptedAnswer(text="x", prompt_token_ids=()), "no prompt token ids"),
        (ScriptedAnswer(text="x", logprobs=()), "no log-probabilities"),
        (ScriptedAnswer(text="x", logprobs=(-0.5,)), "differ in length"),
        (ScriptedAnswer(text="x", token_ids=(2**40, 1)), "out of range"),
        (ScriptedAnswer(text="x", token_ids=(-1, 1)), "out of range"),
    ],
)
async def test_missing_or_contradictory_tokens_mark_the_call_incomplete(
    serve: Serve, answer: ScriptedAnswer, reason: str, stream: bool
) -> None:
    async with serve([answer]) as bench, bench.sdk() as sdk:
        result = await sdk.chat.completions.create(model="m", messages=HELLO, stream=stream)
        if stream:
            assert [chunk async for chunk in result]
        (span,) = await bench.spans()
    assert reason in span.tokens[0].incomplete
    assert reason in span.attributes["agl.incomplete"]


async def test_an_upstream_without_token_ids_is_not_asked_for_them(serve: Serve) -> None:
    async with serve(token_ids=False) as bench, bench.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO)
        assert "return_token_ids" not in bench.llm.requests[0].json
        assert "token_ids" in (await bench.spans())[0].tokens[0].incomplete


async def test_tool_calls_pass_through(serve: Serve) -> None:
    call = ScriptedToolCall(name="add", arguments='{"left": 1,  "right":2}', id="call_7")
    async with serve([ScriptedAnswer(tool_calls=(call, call))]) as bench, bench.sdk() as sdk:
        completion = await sdk.chat.completions.create(model="m", messages=HELLO, tools=[TOOL])
        assert [made.function.arguments for made in completion.choices[0].message.tool_calls] == [
            call.text
        ] * 2
        (recorded,) = (await bench.spans())[0].attributes["gen_ai.output.messages"]
        assert recorded["tool_calls"][0]["function"]["arguments"] == call.text
        assert (await bench.spans())[0].attributes["gen_ai.response.finish_reasons"] == ["tool_calls"]


async def test_sampling_is_overridden_by_mode(serve: Serve) -> None:
    config = GatewayConfig(sampling={Mode.TRAIN: Sampling(temperature=1.0, top_p=0.9, max_tokens=5)})
    async with serve(config=config) as bench:
        for mode in (Mode.TRAIN, Mode.VAL):
            async with bench.sdk(bench.key("r1" if mode is Mode.TRAIN else "r2", mode=mode)) as sdk:
                await sdk.chat.completions.create(
                    model="m", messages=HELLO, temperature=0.1, max_completion_tokens=9
                )
        train, val = (request.json for request in bench.llm.requests)
        assert (train["temperature"], train["top_p"], train["max_completion_tokens"]) == (1.0, 0.9, 5)
        assert "max_tokens" not in train
        assert (val["temperature"], val["max_completion_tokens"]) == (0.1, 9)
        assert (await bench.spans())[0].attributes["gen_ai.request.temperature"] == 1.0


async def test_an_answer_is_given_only_once_it_is_recorded(serve: Serve) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        bench.failing.fail = [StoreUnavailable("away")] * 2
        await sdk.chat.completions.create(model="m", messages=HELLO)
        assert len(await bench.spans()) == 1
        bench.failing.fail = [StoreUnavailable("away")] * 3
        with pytest.raises(openai.InternalServerError, match="could not be recorded"):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        bench.failing.fail = [LeaseLost("gone")]
        with pytest.raises(openai.APIError, match="cannot be recorded"):
            await drain(sdk)
        assert len(await bench.spans()) == 1


async def test_an_attempt_whose_span_came_late_is_refused_from_then_on(serve: Serve) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        attempt = bench.leases["r1"].attempt
        await bench.store.rollouts.finish(attempt.id, token=attempt.token)
        await sdk.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.AuthenticationError, match="has ended"):
            await sdk.chat.completions.create(model="m", messages=HELLO)


async def test_calls_of_an_attempt_are_limited(serve: Serve) -> None:
    async with serve(config=GatewayConfig(max_calls=2)) as bench, bench.sdk() as sdk:
        for _ in range(2):
            await sdk.chat.completions.create(model="m", messages=HELLO)
        for _ in range(2):
            with pytest.raises(openai.RateLimitError, match="max_calls"):
                await sdk.chat.completions.create(model="m", messages=HELLO)
        assert [span.attributes.get("error.type") for span in (await bench.spans())] == [
            None,
            None,
            "too_many_calls",
        ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b'{"model": "m", "messages": [{"role": "user", "content": NaN}]}', "no JSON object"),
        (b'{"model": "m", "messages": [{"role": "user", "content": 1e999}]}', "no JSON object"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "no JSON object"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\u0000"}]}', "NUL"),
        (b'{"model": "m", "x": ' + b"[" * 100 + b"]" * 100 + b', "messages": [{"role": "user"}]}', "nested"),
        (b'{"x": ' * 50_000 + b"1" + b"}" * 50_000, "no JSON object"),
        (b'{"model": 3, "messages": [{"role": "user"}]}', "`model`"),
        (b'{"model": "m", "messages": []}', "`messages`"),
        (b'{"model": "m", "messages": [{"role": "user"}], "n": 1000}', "`n`"),
        (b'{"model": "m", "messages": [{"role": "user"}], "n": true}', "`n`"),
        (b'{"model": "m", "messages": [{"role": "user"}], "top_logprobs": 100}', "`top_logprobs`"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream": "yes"}', "`stream`"),
    ],
)
async def test_a_body_that_cannot_be_served_is_refused_with_the_reason(
    serve: Serve, body: bytes, reason: str
) -> None:
    async with serve() as bench, aiohttp.ClientSession() as session:
        url = bench.gateway.base_url + "/v1/chat/completions"
        async with session.post(
            url, data=body, headers={"Authorization": f"Bearer {bench.key()}"}
        ) as response:
            error = (await response.json())["error"]
        assert response.status == 400
        assert reason in error["message"]
        assert bench.llm.requests == []
        assert (await bench.spans())[0].status is SpanStatus.ERROR


async def test_a_body_that_is_too_large_is_refused_while_it_is_read(serve: Serve) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 1000

    async with (
        serve(config=GatewayConfig(max_body_bytes=10_000)) as bench,
        aiohttp.ClientSession() as session,
    ):
        url = bench.gateway.base_url + "/v1/chat/completions"
        async with session.post(
            url, data=endless(), headers={"Authorization": f"Bearer {bench.key()}"}
        ) as response:
            assert response.status == 413
            assert "max_body_bytes" in (await response.json())["error"]["message"]


async def test_fields_that_would_choose_an_upstream_are_dropped(serve: Serve) -> None:
    evil = {"api_base": "http://127.0.0.1:1", "api_key": "k", "chat_template": "{{ 1 }}", "top_k": 3}
    async with serve() as bench, bench.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, extra_body=evil)
        sent = bench.llm.requests[0].json
        assert sent["top_k"] == 3
        assert evil.keys() & sent.keys() == {"top_k"}


async def test_64_concurrent_clients_lose_nothing(serve: Serve) -> None:
    def script(request: ScriptedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(text=request.json["messages"][0]["content"] * 2)

    async with serve(script) as bench, bench.sdk() as sdk:

        async def ask(number: int) -> str | None:
            messages = [{"role": "user", "content": f"q{number} "}]
            if number % 2:
                stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            completion = await sdk.chat.completions.create(model="m", messages=messages)
            return completion.choices[0].message.content

        answers = await asyncio.gather(*map(ask, range(64)))
        assert answers == [f"q{number} " * 2 for number in range(64)]
        recorded = {
            (
                span.attributes["gen_ai.input.messages"][0]["content"],
                bytes(list(span.tokens[0].response_ids)[:-1]),
            )
            for span in (await bench.spans())
        }
    assert recorded == {(f"q{number} ", (f"q{number} " * 2).encode()) for number in range(64)}


async def test_a_taken_port_is_one_clear_line(serve: Serve) -> None:
    async with serve() as bench:
        port = int(bench.gateway.base_url.rsplit(":", 1)[1])
        other = create_gateway(store=bench.store, upstreams={}, config=GatewayConfig(port=port))
        with pytest.raises(GatewayError, match=r"the port is taken; set its `port`") as caught:
            await other.start()
    assert "\n" not in str(caught.value)


async def test_what_was_answered_is_in_the_file_when_the_process_is_gone(
    serve: Serve, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/run.db"
    async with serve(url=url) as bench, bench.sdk() as sdk:
        ident = (await sdk.chat.completions.create(model="m", messages=HELLO)).id
        (tokens,) = (await bench.spans())[0].tokens
    async with open_store(url) as store:
        (span,) = (await store.spans.page(SpanQuery())).items
    assert (span.attributes["gen_ai.response.id"], span.tokens) == (ident, (tokens,))


def test_the_listening_socket_names_tcp_so_that_answers_are_not_held_back() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
