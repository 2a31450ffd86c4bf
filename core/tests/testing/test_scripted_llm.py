from __future__ import annotations

import openai
import pytest

from agentlightning.testing import ScriptedAnswer, ScriptedFault, ScriptedLLM, ScriptedToolCall

HELLO = [{"role": "user", "content": "hello"}]


def client(llm: ScriptedLLM, *, max_retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=llm.base_url, api_key="k", max_retries=max_retries, timeout=10)


def test_answers_come_in_order_and_requests_are_recorded() -> None:
    with ScriptedLLM([ScriptedAnswer(text="one"), ScriptedAnswer(text="two")]) as llm, client(llm) as sdk:
        texts = [
            sdk.chat.completions.create(model="m", messages=HELLO).choices[0].message.content
            for _ in range(2)
        ]
        assert texts == ["one", "two"]
        assert [request.json["model"] for request in llm.requests] == ["m", "m"]
        assert llm.requests[0].headers["authorization"] == "Bearer k"


def test_a_script_that_has_run_out_says_so() -> None:
    with ScriptedLLM([ScriptedAnswer()]) as llm, client(llm) as sdk:
        sdk.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.InternalServerError, match="has 1 replies"):
            sdk.chat.completions.create(model="m", messages=HELLO)


def test_token_ids_and_logprobs_come_only_when_asked_for() -> None:
    with ScriptedLLM() as llm, client(llm) as sdk:
        plain = sdk.chat.completions.create(model="m", messages=HELLO)
        full = sdk.chat.completions.create(
            model="m", messages=HELLO, logprobs=True, extra_body={"return_token_ids": True}
        )
    assert "prompt_token_ids" not in plain.to_dict()
    assert plain.choices[0].logprobs is None
    assert full.to_dict()["choices"][0]["token_ids"] == [*b"ok", 256]
    assert full.choices[0].logprobs is not None
    assert len(full.choices[0].logprobs.content or []) == 3


def test_each_turns_prompt_starts_with_the_turn_before_it() -> None:
    def raw(sdk: openai.OpenAI, messages: list[dict[str, str]]) -> dict[str, object]:
        answer = sdk.chat.completions.create(
            model="m", messages=messages, extra_body={"return_token_ids": True}
        )
        return answer.to_dict()

    with ScriptedLLM() as llm, client(llm) as sdk:
        first = raw(sdk, HELLO)
        second = raw(
            sdk, [*HELLO, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}]
        )
    turn = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert second["prompt_token_ids"][: len(turn)] == turn


@pytest.mark.parametrize("write_size", [0, 1])
def test_a_stream_carries_tool_calls_in_fragments_and_ids_that_add_up(write_size: int) -> None:
    call = ScriptedToolCall(name="add", arguments={"left": 17, "right": 4})
    answer = ScriptedAnswer(text="né \n ok", tool_calls=(call,), write_size=write_size)
    with ScriptedLLM([answer]) as llm, client(llm) as sdk:
        chunks = list(
            sdk.chat.completions.create(
                model="m",
                messages=HELLO,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"return_token_ids": True},
            )
        )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "né \n ok"
    fragments = [
        part.function.arguments for delta in deltas for part in delta.tool_calls or [] if part.function
    ]
    assert len(fragments) > 2
    assert "".join(fragments) == call.text
    ids = [
        ident
        for chunk in chunks
        for choice in chunk.to_dict()["choices"]
        for ident in choice["token_ids"] or []
    ]
    assert ids == answer.ids
    assert chunks[-1].usage is not None


def test_a_fault_has_its_status_and_headers() -> None:
    rejected = pytest.raises(openai.RateLimitError)
    with (
        ScriptedLLM([ScriptedFault(status=429, retry_after="7")]) as llm,
        client(llm) as sdk,
        rejected as caught,
    ):
        sdk.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("reply", [ScriptedFault(status=0), ScriptedAnswer(cut_at=20, cut="reset")])
def test_a_connection_can_break(reply: ScriptedFault | ScriptedAnswer) -> None:
    with ScriptedLLM([reply]) as llm, client(llm) as sdk, pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(model="m", messages=HELLO)


def test_a_client_that_leaves_a_held_stream_is_noticed() -> None:
    with ScriptedLLM([ScriptedAnswer(text="long text", hold_after=2)]) as llm, client(llm) as sdk:
        stream = sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(iter(stream))
        llm.wait_held()
        stream.close()
        llm.wait_left()


def test_an_error_event_ends_a_stream() -> None:
    broken = pytest.raises(openai.APIError, match="broken")
    with ScriptedLLM([ScriptedAnswer(text="text", error_event="broken")]) as llm, client(llm) as sdk, broken:
        list(sdk.chat.completions.create(model="m", messages=HELLO, stream=True))


def test_models_are_listed() -> None:
    with ScriptedLLM(model="tiny") as llm, client(llm) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny"]
