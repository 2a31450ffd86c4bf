from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.testing import ScriptedAnswer, ScriptedRequest
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.completions import Completions, prompts

Serve = Callable[..., AbstractAsyncContextManager[Any]]
TEXT = "  two\n\ttabs é "
WIRE = Completions()


def echoing(request: ScriptedRequest) -> ScriptedAnswer:
    """Answers with the prompt in capitals."""
    return ScriptedAnswer(text=request.json["messages"][0]["content"].upper())


async def test_a_text_prompt_is_asked_as_one_user_message_where_only_chat_is_spoken(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text=TEXT)]) as bench, bench.sdk() as sdk:
        answer = await sdk.completions.create(model="m", prompt="once upon", max_tokens=9, stop=["\n\n"])
        (span,) = await bench.spans()
        sent = bench.llm.requests[0].json
    assert (answer.object, answer.choices[0].text, answer.choices[0].logprobs) == (
        "text_completion",
        TEXT,
        None,
    )
    assert answer.usage.completion_tokens == len(TEXT.encode()) + 1
    assert "token_ids" not in str(answer.to_dict())
    assert sent["messages"] == [{"role": "user", "content": "once upon"}]
    assert (sent["max_tokens"], sent["stop"], sent["logprobs"]) == (9, ["\n\n"], True)
    assert span.operation == "chat"
    assert span.attributes["gen_ai.response.id"] == answer.id
    assert span.attributes["agl.native.request"]["prompt"] == "once upon"
    assert span.attributes["gen_ai.input.messages"] == sent["messages"]
    assert (list(span.tokens[0].response_ids)[:-1], span.tokens[0].incomplete) == (list(TEXT.encode()), "")


async def test_a_prompt_of_token_ids_is_asked_as_exactly_these(serve: Serve) -> None:
    async with serve([ScriptedAnswer(text="x", prompt_token_ids=(7, 8, 9))]) as bench, bench.sdk() as sdk:
        await sdk.completions.create(model="m", prompt=[7, 8, 9])
        assert bench.llm.requests[0].json["prompt_token_ids"] == [7, 8, 9]
        assert list((await bench.spans())[0].tokens[0].prompt_ids) == [7, 8, 9]


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_are_several_choices_of_one_call(serve: Serve, stream: bool) -> None:
    async with serve(echoing) as bench, bench.sdk() as sdk:
        result = await sdk.completions.create(
            model="m",
            prompt=["ab", "cde"],
            n=2,
            stream=stream,
            echo=True,
            extra_body={"return_token_ids": True},
        )
        texts = [""] * 4
        if stream:
            async for chunk in result:
                for choice in chunk.choices:
                    texts[choice.index] += choice.text
        else:
            texts = [choice.text for choice in result.choices]
            assert [choice.index for choice in result.choices] == [0, 1, 2, 3]
            assert result.usage.completion_tokens == 2 * 3 + 2 * 4
        (span,) = await bench.spans()
    assert texts == ["abAB", "abAB", "cdeCDE", "cdeCDE"]
    assert [bytes(list(one.response_ids)[:-1]) for one in span.tokens] == [b"AB", b"AB", b"CDE", b"CDE"]
    assert [bytes(list(one.prompt_ids)[1:-2]) for one in span.tokens] == [b"ab", b"ab", b"cde", b"cde"]
    assert all(one.incomplete == "" for one in span.tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_in_the_form_of_completions_if_asked_for(
    serve: Serve, stream: bool
) -> None:
    async with serve([ScriptedAnswer(text="abc")]) as bench, bench.sdk() as sdk:
        result = await sdk.completions.create(model="m", prompt="p", logprobs=0, stream=stream)
        parts = [chunk async for chunk in result] if stream else [result]
        found = [part.choices[0].logprobs for part in parts if part.choices and part.choices[0].logprobs]
    assert [value for part in found for value in part.token_logprobs] == [-0.25] * 4
    assert bench.llm.requests[0].json["top_logprobs"] == 0


@pytest.mark.parametrize("field", [{"suffix": "x"}, {"best_of": 3}, {"echo": True, "logprobs": 1}])
async def test_what_chat_cannot_ask_is_refused(serve: Serve, field: dict[str, Any]) -> None:
    async with serve() as bench, bench.sdk() as sdk:
        with pytest.raises(openai.BadRequestError, match=next(iter(field))):
            await sdk.completions.create(model="m", prompt="p", **field)
        assert bench.llm.requests == []


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
    )
)
def test_a_prompt_is_texts_or_token_ids_or_refused(prompt: Any) -> None:
    try:
        found = prompts({"prompt": prompt})
    except ApiError as error:
        refused = error.status
        assert refused == 400
    else:
        assert found
        assert all(
            isinstance(one, str) or (one and all(type(ident) is int for ident in one)) for one in found
        )
        assert WIRE.split({"prompt": prompt, "model": "m"})[0]["model"] == "m"


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=20),
    ids=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    echoed=st.booleans(),
    logprob=st.floats(-9, 0),
)
def test_a_native_answer_says_the_same_as_chat_and_the_prompt_is_no_sample(
    text: str, ids: list[int], echoed: bool, logprob: float
) -> None:
    prompt = [1, 2, 3]
    values: list[float | None] = [logprob] * len(ids)
    told = {"token_ids": ids, "values": values}
    if echoed:
        told = {"token_ids": [*prompt, *ids], "values": [None, -1.0, -1.0, *values]}
    names = ["t"] * len(told["values"])
    choice = {
        "index": 0,
        "text": text,
        "finish_reason": "stop",
        "prompt_token_ids": prompt,
        "token_ids": told["token_ids"],
        "logprobs": {"tokens": names, "token_logprobs": told["values"]},
    }
    completion = WIRE.completion({"id": "cmpl-1", "model": "m", "choices": [choice]})
    (read,) = completion["choices"]
    assert (read["message"]["content"], read["token_ids"], read["prompt_token_ids"]) == (text, ids, prompt)
    assert [entry["logprob"] for entry in read["logprobs"]["content"]] == values
    back = WIRE.answer(
        completion, request={"model": "m", "prompt": "p", "logprobs": 0, "return_token_ids": True}
    )
    assert (back["id"], back["choices"][0]["text"], back["choices"][0]["token_ids"]) == ("cmpl-1", text, ids)
    assert back["choices"][0]["logprobs"]["token_logprobs"] == values
