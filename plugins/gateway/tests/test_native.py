"""Upstreams that speak the client's wire get its request and give their answer as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anthropic
import msgspec
import openai
import pytest
from aiohttp import web

from agentlightning.errors import StoreUnavailable
from agentlightning.gateway import HttpUpstream
from agentlightning.testing import ScriptedAnswer

Serve = Callable[..., AbstractAsyncContextManager[Any]]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TEXT = "  two\n\ttabs é "


@dataclass
class Native:
    """A server of other wires, and what it was asked."""

    url: str = ""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def upstream(self, *wires: str, token_ids: bool = False, **fields: Any) -> HttpUpstream:
        return HttpUpstream(base_url=self.url, wires=wires, token_ids=token_ids, **fields)


@asynccontextmanager
async def native(*answers: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> AsyncIterator[Native]:
    """A server that gives these answers in turn: an object whole, a list as a stream of events."""
    found = Native()
    left = list(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        found.asked.append(
            (request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json())
        )
        answer = left.pop(0)
        if isinstance(answer, Mapping):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in answer:
            kind = f"event: {event['type']}\n".encode() if "type" in event else b""
            await response.write(kind + b"data: " + msgspec.json.encode(event) + b"\n\n")
        return response

    application = web.Application()
    application.router.add_post("/v1/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield found
    finally:
        await runner.cleanup()


def claude(bench: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=bench.gateway.base_url, api_key=bench.key(), max_retries=0)


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": TEXT, "citations": None}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 7, "service_tier": "standard"},
}
MESSAGE_EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]


async def test_messages_pass_through_and_are_recorded_as_chat(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_KEY", "sk-canary")
    async with native(MESSAGE) as server:
        upstreams = {"m": server.upstream("messages", model="claude", api_key_env="CLAUDE_KEY")}
        async with serve(upstreams=upstreams) as bench, aiohttp.ClientSession() as http:
            url = bench.gateway.base_url + "/v1/messages"
            body = {
                "model": "m",
                "max_tokens": 9,
                "messages": HELLO,
                "system": [{"type": "text", "text": "s"}],
            }
            headers = {"x-api-key": bench.key(), "anthropic-version": "2023-06-01", "cookie": "c"}
            async with http.post(url, json=body, headers=headers) as response:
                assert await response.json() == MESSAGE
            (span,) = await bench.spans()
            key = bench.key()
        ((path, sent_headers, sent),) = server.asked
    assert (path, sent) == ("/v1/messages", {**body, "model": "claude"})
    assert (sent_headers["x-api-key"], sent_headers["anthropic-version"]) == ("sk-canary", "2023-06-01")
    assert "cookie" not in sent_headers
    assert key not in str(sent_headers)
    assert span.attributes["agl.native.request"] == body
    assert span.attributes["gen_ai.input.messages"][-1] == HELLO[0]
    assert span.attributes["gen_ai.output.messages"][0]["content"] == TEXT
    assert span.attributes["gen_ai.response.id"] == "msg_1"
    assert span.attributes["gen_ai.usage.output_tokens"] == 7
    assert "not asked for token ids" in span.tokens[0].incomplete


async def test_a_native_stream_passes_through_event_by_event(serve: Serve) -> None:
    async with native(MESSAGE_EVENTS) as server, serve(upstreams={"m": server.upstream("messages")}) as bench:
        async with claude(bench) as sdk:
            stream = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
            events = [event.to_dict() async for event in stream]
        (span,) = await bench.spans()
    assert [event["type"] for event in events] == [
        event["type"] for event in MESSAGE_EVENTS if event["type"] != "ping"
    ]  # the SDK keeps pings to itself
    assert span.attributes["gen_ai.output.messages"][0]["content"] == TEXT
    assert (span.attributes["gen_ai.response.id"], span.attributes["gen_ai.usage.output_tokens"]) == (
        "msg_1",
        7,
    )
    assert span.tokens[0].finish_reason == "stop"


async def collect(stream: Any, seen: list[str]) -> None:
    async for event in stream:
        seen.append(event.type)  # noqa: PERF401 - what comes before an error counts


async def test_the_event_that_ends_a_native_stream_waits_for_the_record(serve: Serve) -> None:
    async with native(MESSAGE_EVENTS) as server, serve(upstreams={"m": server.upstream("messages")}) as bench:
        bench.failing.fail = [StoreUnavailable("away")] * 3
        async with claude(bench) as sdk:
            seen: list[str] = []
            stream = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
            with pytest.raises(anthropic.APIError, match="could not be recorded"):
                await collect(stream, seen)
    assert seen[0] == "message_start"
    assert "message_stop" not in seen


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": "gpt",
    "status": "completed",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [{"type": "web_search"}],
    "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_only_responses_can_ask_reaches_an_upstream_that_speaks_them(
    serve: Serve, stream: bool
) -> None:
    events = [
        {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress"}},
        {"type": "response.completed", "sequence_number": 1, "response": RESPONSE},
    ]
    async with native(events if stream else RESPONSE) as server:
        upstreams = {"m": server.upstream("chat", "responses", token_ids=True)}
        async with serve(upstreams=upstreams) as bench, bench.sdk() as sdk:
            found = await sdk.responses.create(
                model="m",
                input="x",
                tools=[{"type": "web_search"}],
                stream=stream,
                extra_headers={"OpenAI-Beta": "b"},
                extra_body={"api_base": "http://127.0.0.1:1"},
            )
            response = [event async for event in found][-1].response if stream else found
            (span,) = await bench.spans()
        ((path, headers, sent),) = server.asked
    assert (response.id, response.output_text) == ("resp_1", TEXT)
    assert (path, sent["tools"], headers["openai-beta"]) == ("/v1/responses", [{"type": "web_search"}], "b")
    assert "api_base" not in sent
    assert span.attributes["gen_ai.response.id"] == "resp_1"
    assert "`responses`, whose answers bring no token ids" in span.tokens[0].incomplete


async def test_an_upstream_resolves_its_own_previous_answers(serve: Serve) -> None:
    async with native(RESPONSE) as server, serve(upstreams={"m": server.upstream("responses")}) as bench:
        async with bench.sdk() as sdk:
            await sdk.responses.create(model="m", input="x", previous_response_id="resp_0")
        assert server.asked[0][2]["previous_response_id"] == "resp_0"


async def test_a_call_is_translated_where_token_ids_are_only_to_be_had_from_chat(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text=TEXT)]) as bench:
        upstream = HttpUpstream(base_url=bench.llm.base_url, wires=("messages", "chat", "responses"))
        async with serve(upstreams={"m": upstream}) as other, claude(other) as sdk:
            message = await sdk.messages.create(model="m", max_tokens=9, messages=HELLO)
            assert message.content[0].text == TEXT
            assert (await other.spans())[0].tokens[0].incomplete == ""
        assert bench.llm.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_client_reaches_an_upstream_that_speaks_messages_only(
    serve: Serve, stream: bool
) -> None:
    async with native(MESSAGE_EVENTS if stream else MESSAGE) as server:
        async with serve(upstreams={"m": server.upstream("messages")}) as bench, bench.sdk() as sdk:
            found = await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=9, stream=stream)
            if stream:
                text = "".join([part.choices[0].delta.content or "" async for part in found if part.choices])
            else:
                text = found.choices[0].message.content
            (span,) = await bench.spans()
        ((path, _, sent),) = server.asked
    assert (path, sent["messages"], sent["max_tokens"]) == ("/v1/messages", HELLO, 9)
    assert text == TEXT
    assert "agl.native.request" not in span.attributes
    assert "`token_ids`" in span.tokens[0].incomplete


def text_choice(index: int, text: str, *, prompt: Sequence[int]) -> dict[str, Any]:
    ids = list(text.encode())
    logprobs = {"tokens": [chr(ident) for ident in ids], "token_logprobs": [-0.5] * len(ids)}
    return {
        "index": index,
        "text": text,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": ids,
        "prompt_token_ids": prompt,
        "logprobs": logprobs,
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_of_token_ids_are_token_in_and_token_out(serve: Serve, stream: bool) -> None:
    frame = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "m"}
    choices = [text_choice(0, "ab", prompt=[1, 2]), text_choice(1, "c", prompt=[3])]
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    whole = {**frame, "choices": choices, "usage": usage}
    events = [
        *({**frame, "choices": [choice]} for choice in choices),
        {**frame, "choices": [], "usage": usage},
    ]
    async with native(events if stream else whole) as server:
        upstreams = {"m": server.upstream("chat", "completions", token_ids=True)}
        async with serve(upstreams=upstreams) as bench, bench.sdk(bench.key(seed=1)) as sdk:
            found = await sdk.completions.create(model="m", prompt=[[1, 2], [3]], stream=stream)
            parts = [part.to_dict() async for part in found] if stream else [found.to_dict()]
            (span,) = await bench.spans()
        ((path, _, sent),) = server.asked
    seen = [choice for part in parts for choice in part["choices"]]
    assert [choice["text"] for choice in seen] == ["ab", "c"]
    assert not any("token_ids" in choice or choice["logprobs"] for choice in seen)
    assert ("usage" in parts[-1]) is not stream
    assert (path, sent["prompt"], sent["return_token_ids"], sent["logprobs"]) == (
        "/v1/completions",
        [[1, 2], [3]],
        True,
        1,
    )
    assert isinstance(sent["seed"], int)
    assert [(list(one.prompt_ids), list(one.response_ids), one.incomplete) for one in span.tokens] == [
        ([1, 2], list(b"ab"), ""),
        ([3], list(b"c"), ""),
    ]
    assert span.attributes["gen_ai.usage.output_tokens"] == 3


async def test_embeddings_pass_through_to_upstreams_that_have_them(serve: Serve) -> None:
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "model": "m",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    async with native(answer) as server:
        upstreams = {"m": server.upstream("embeddings"), "chat": server.upstream("chat")}
        async with serve(upstreams=upstreams) as bench, bench.sdk() as sdk:
            found = await sdk.embeddings.create(model="m", input="hello", encoding_format="float")
            with pytest.raises(openai.BadRequestError, match="no embeddings"):
                await sdk.embeddings.create(model="chat", input="hello")
            with pytest.raises(openai.BadRequestError, match="`input`"):
                await sdk.embeddings.create(model="m", input=[])
            with pytest.raises(openai.BadRequestError, match="embeddings only"):
                await sdk.chat.completions.create(model="m", messages=HELLO)
            span = (await bench.spans())[0]
    assert found.data[0].embedding == [0.5, 0.25]
    assert (span.operation, span.tokens, "agl.incomplete" in span.attributes) == ("embeddings", (), False)


async def test_an_upstream_that_answers_with_another_model_is_recorded_as_such(serve: Serve) -> None:
    async with native(MESSAGE) as server, serve(upstreams={"m": server.upstream("messages")}) as bench:
        async with claude(bench) as sdk:
            await sdk.messages.create(model="m", max_tokens=9, messages=HELLO)
        (span,) = await bench.spans()
    assert (span.attributes["gen_ai.request.model"], span.attributes["gen_ai.response.model"]) == (
        "m",
        "claude",
    )
