"""The official SDKs, synchronous and asynchronous, on every wire, through the gateway to a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic
import openai
import pydantic
import pytest

from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedToolCall
from agentlightning.types import Span

Serve = Callable[..., AbstractAsyncContextManager[Any]]
TEXT = "  def f():\n    return 1\n\n\té 𝄞 "
HELLO = [{"role": "user", "content": "hello"}]
CALL = ScriptedToolCall(name="add", arguments='{"left":  17, "right": 4}', id="call_9")
PARAMETERS = {"type": "object", "properties": {"left": {"type": "integer"}, "right": {"type": "integer"}}}


class Sum(pydantic.BaseModel):
    """A structured answer."""

    total: int


def complete(span: Span) -> bool:
    return bool(span.tokens) and all(record.incomplete == "" for record in span.tokens)


async def in_thread(
    serve: Serve, script: list[Any], work: Callable[[Any, str], Any]
) -> tuple[Any, list[Span]]:
    """What a synchronous client made of a gateway, and what was recorded."""
    async with serve(script) as bench:
        found = await asyncio.to_thread(work, bench.gateway.base_url, bench.key())
        return found, await bench.spans()


def claude(bench: Any, key: str | None = None) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=bench.gateway.base_url, api_key=key or bench.key(), max_retries=0
    )


# Responses


async def test_responses_whole(serve: Serve) -> None:
    answer = ScriptedAnswer(text=TEXT, reasoning="hm")
    async with serve([answer]) as bench, bench.sdk() as sdk:
        response = await sdk.responses.create(model="m", input="hello", instructions="Be brief.")
        (span,) = await bench.spans()
        assert "previous_response_id" not in bench.llm.requests[0].json
    assert (response.output_text, response.status) == (TEXT, "completed")
    assert response.usage.output_tokens == len(answer.ids)
    assert complete(span)
    assert list(span.tokens[0].response_ids) == answer.ids
    assert span.attributes["gen_ai.response.id"] == response.id
    assert span.attributes["gen_ai.input.messages"][0]["content"] == "Be brief."  # type: ignore[index]
    assert span.attributes["agl.native.request"]["input"] == "hello"  # type: ignore[index]


async def test_responses_streamed(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text=TEXT, tool_calls=(CALL,))]) as bench, bench.sdk() as sdk:
        async with sdk.responses.stream(model="m", input="hello") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        (span,) = await bench.spans()
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert final.output_text == TEXT
    assert [item.arguments for item in final.output if item.type == "function_call"] == [CALL.text]
    assert events[-1].type == "response.completed"
    assert complete(span)
    assert span.attributes["gen_ai.response.id"] == final.id


async def test_responses_structured(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text='{"total": 21}')]) as bench, bench.sdk() as sdk:
        response = await sdk.responses.parse(model="m", input="sum", text_format=Sum)
        assert response.output_parsed == Sum(total=21)
        assert bench.llm.requests[0].json["response_format"]["type"] == "json_schema"


async def test_responses_synchronously(serve: Serve) -> None:
    def work(url: str, key: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
            whole = sdk.responses.create(model="m", input="hello").output_text
            parts = sdk.responses.create(model="m", input="hello", stream=True)
            return whole, "".join(part.delta for part in parts if part.type == "response.output_text.delta")

    found, spans = await in_thread(serve, [ScriptedAnswer(text=TEXT)] * 2, work)
    assert found == (TEXT, TEXT)
    assert all(map(complete, spans))


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_go_on_from_an_earlier_answer(serve: Serve, stream: bool) -> None:
    script = [ScriptedAnswer(tool_calls=(CALL,)), ScriptedAnswer(text="21"), ScriptedAnswer(text="again")]
    async with serve(script) as bench, bench.sdk() as sdk:

        async def ask(**options: Any) -> Any:
            if not stream:
                return await sdk.responses.create(model="m", **options)
            async with sdk.responses.stream(model="m", **options) as events:
                return await events.get_final_response()

        first = await ask(input="sum", instructions="Use the tool.")
        result = [{"type": "function_call_output", "call_id": "call_9", "output": "21"}]
        second = await ask(input=result, previous_response_id=first.id, instructions="Be brief.")
        await ask(input="once more", previous_response_id=second.id)
        sent = [request.json["messages"] for request in bench.llm.requests]
        with pytest.raises(openai.BadRequestError, match="is no answer of this attempt"):
            await ask(input="x", previous_response_id="resp_other")
        async with bench.sdk(bench.key("r2")) as other:
            with pytest.raises(openai.BadRequestError, match="is no answer of this attempt"):
                await other.responses.create(model="m", input="x", previous_response_id=first.id)
    assert [message["role"] for message in sent[1]] == ["system", "user", "assistant", "tool"]
    assert sent[1][0]["content"] == "Be brief."
    assert sent[1][2]["tool_calls"][0]["function"]["arguments"] == CALL.text
    assert [message["role"] for message in sent[2]] == ["user", "assistant", "tool", "assistant", "user"]


async def test_responses_go_on_after_a_restart_from_what_the_store_has(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_gateway._history._KEPT_ANSWERS", 0)
    async with serve([ScriptedAnswer(text="one"), ScriptedAnswer(text="two")]) as bench, bench.sdk() as sdk:
        first = await sdk.responses.create(model="m", input="hello", instructions="Be brief.")
        await sdk.responses.create(model="m", input="and?", previous_response_id=first.id)
        sent = bench.llm.requests[1].json["messages"]
    assert [(message["role"], message["content"]) for message in sent] == [
        ("user", "hello"),
        ("assistant", "one"),
        ("user", "and?"),
    ]


async def test_responses_errors_are_told_in_their_form(serve: Serve) -> None:
    script = [
        ScriptedFault(status=400, message="too long"),
        ScriptedAnswer(text="abcdef", error_event="lost"),
    ]
    async with serve(script) as bench, bench.sdk() as sdk:
        with pytest.raises(openai.BadRequestError, match="too long"):
            await sdk.responses.create(model="m", input="hello")
        stream = await sdk.responses.create(model="m", input="hello", stream=True)
        assert (await anext(aiter(stream))).type == "response.created"
        with pytest.raises(openai.APIError, match="lost"):
            [event async for event in stream]
        assert [span.attributes["error.type"] for span in await bench.spans()] == ["upstream_error"] * 2


# Messages


async def test_messages_whole(serve: Serve) -> None:
    answer = ScriptedAnswer(text=TEXT, tool_calls=(CALL,))
    async with serve([answer]) as bench, claude(bench) as sdk:
        tools: list[Any] = [{"name": "add", "input_schema": PARAMETERS}]
        message = await sdk.messages.create(
            model="m",
            max_tokens=50,
            system="Be brief.",
            messages=HELLO,
            tools=tools,  # type: ignore[arg-type]
        )
        (span,) = await bench.spans()
        sent = bench.llm.requests[0].json
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert (message.content[0].text, message.content[1].input) == (TEXT, {"left": 17, "right": 4})
    assert message.stop_reason == "tool_use"
    assert sent["tools"][0]["function"]["parameters"] == PARAMETERS
    assert (sent["messages"][0]["role"], sent["max_completion_tokens"]) == ("system", 50)
    assert complete(span)
    assert span.attributes["gen_ai.response.id"] == message.id
    assert span.attributes["agl.native.request"]["system"] == "Be brief."  # type: ignore[index]


async def test_messages_streamed(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text=TEXT, tool_calls=(CALL, CALL))]) as bench, claude(bench) as sdk:
        async with sdk.messages.stream(model="m", max_tokens=50, messages=HELLO) as stream:  # type: ignore[arg-type]
            text = "".join([part async for part in stream.text_stream])
            message = await stream.get_final_message()
        (span,) = await bench.spans()
    assert text == TEXT
    assert [block.input for block in message.content[1:]] == [{"left": 17, "right": 4}] * 2
    assert complete(span)
    assert span.attributes["gen_ai.response.id"] == message.id


async def test_messages_synchronously(serve: Serve) -> None:
    def work(url: str, key: str) -> tuple[str, str]:
        with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as sdk:
            whole = sdk.messages.create(model="m", max_tokens=9, messages=HELLO).content[0].text  # type: ignore[arg-type]
            with sdk.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:  # type: ignore[arg-type]
                return whole, "".join(stream.text_stream)

    found, spans = await in_thread(serve, [ScriptedAnswer(text=TEXT)] * 2, work)
    assert found == (TEXT, TEXT)
    assert all(map(complete, spans))


async def test_messages_count_the_tokens_of_a_prompt_without_a_sample(serve: Serve) -> None:
    async with serve() as bench, claude(bench) as sdk:
        counted = await sdk.messages.count_tokens(model="m", messages=HELLO)  # type: ignore[arg-type]
        assert counted.input_tokens == len(ScriptedAnswer().prompt_ids(HELLO))
        assert bench.llm.requests[0].json["max_tokens"] == 1
        assert await bench.spans() == []


async def test_messages_errors_are_told_in_their_form(serve: Serve) -> None:
    script = [
        ScriptedFault(status=400, message="too long"),
        ScriptedAnswer(text="abcdef", error_event="lost"),
    ]
    async with serve(script) as bench, claude(bench) as sdk:
        with pytest.raises(anthropic.BadRequestError, match="too long") as caught:
            await sdk.messages.create(model="m", max_tokens=9, messages=HELLO)  # type: ignore[arg-type]
        assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
        async with sdk.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:  # type: ignore[arg-type]
            with pytest.raises(anthropic.APIError, match="lost"):
                await stream.get_final_message()
        async with claude(bench, "wrong") as stranger:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await stranger.messages.create(model="m", max_tokens=9, messages=HELLO)  # type: ignore[arg-type]
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_marked_retry_is_answered_from_the_record_on_every_wire(serve: Serve, stream: bool) -> None:
    mark = {"x-stainless-retry-count": "1"}
    async with serve([ScriptedAnswer(text=f"answer {number}") for number in range(9)]) as bench:
        async with bench.sdk() as sdk, claude(bench) as other:

            async def ask(wire: str, **options: Any) -> Any:
                if wire == "responses":
                    found = await sdk.responses.create(model="m", input="x", stream=stream, **options)
                elif wire == "completions":
                    found = await sdk.completions.create(model="m", prompt="x", stream=stream, **options)
                else:
                    found = await other.messages.create(
                        model="m",
                        max_tokens=9,
                        messages=HELLO,
                        stream=stream,
                        **options,  # type: ignore[call-overload]
                    )
                return [part.to_dict() async for part in found] if stream else found.to_dict()

            for wire in ("responses", "completions", "messages"):
                assert await ask(wire) == await ask(wire, extra_headers=mark)
        assert len(await bench.spans()) == len(bench.llm.requests) == 3
