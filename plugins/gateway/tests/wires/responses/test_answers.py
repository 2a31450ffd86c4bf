from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from lightning_plugin_gateway._errors import ApiError, bad_request
from lightning_plugin_gateway.wires.responses import Responses

WIRE = Responses()
LOGPROBS = "message.output_text.logprobs"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SAID = TEXT.filter(bool)


def asked(**fields: Any) -> dict[str, Any]:
    return WIRE.parse(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def completion(message: dict[str, Any], *, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": finish,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "served",
        "choices": [{"logprobs": None, **choice}],
        **fields,
    }


def call(name: str, arguments: str, *, ident: str) -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def entry(token: str, logprob: float, *top: tuple[str, float]) -> dict[str, Any]:
    likely = [{"token": one, "logprob": value, "bytes": list(one.encode())} for one, value in top]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": likely}


def answered(whole: dict[str, Any], **fields: Any) -> Response:
    """As the SDK reads it, checked by its own types."""
    return Response.model_validate(WIRE.answer(whole, request=asked(**fields)))


def test_an_answer_has_its_items_in_order_and_what_was_asked() -> None:
    function = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    answer = answered(
        completion(
            {
                "content": " hi\n",
                "reasoning_content": "hm ",
                "tool_calls": [call("f", '{"a":', ident="c1"), call("g", "", ident="c2")],
            },
            finish="tool_calls",
            usage={
                "prompt_tokens": 5,
                "completion_tokens": 4,
                "total_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        ),
        tools=[function],
        instructions="be",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=9,
        text={"format": {"type": "json_object"}},
        previous_response_id="resp_0",
        store=False,
    )
    assert (answer.id, answer.model, answer.created_at, answer.status) == ("resp_1", "served", 7, "completed")
    assert [(item.type, item.id) for item in answer.output] == [
        ("reasoning", "rs_1"),
        ("message", "msg_1"),
        ("function_call", "fc_1"),
        ("function_call", "fc_1_1"),
    ]
    reasoning, _, first, second = answer.output
    assert reasoning.content[0].text == "hm "
    assert answer.output_text == " hi\n"
    assert (first.call_id, first.name, first.arguments) == ("c1", "f", '{"a":')
    assert (second.call_id, second.name, second.arguments) == ("c2", "g", "")
    assert answer.usage.model_dump(exclude_none=True) == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 9,
    }
    assert answer.tools[0].name == "f"
    assert (answer.instructions, answer.metadata, answer.temperature) == ("be", {"a": "b"}, 0.5)
    assert (answer.max_output_tokens, answer.previous_response_id) == (9, "resp_0")
    assert answer.text.format.type == "json_object"
    assert answer.to_dict()["store"] is False


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        (None, "completed", None),
        ("eos_token", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("abort", "failed", None),
    ],
)
def test_the_status_tells_how_an_answer_ended(finish: str | None, status: str, reason: str | None) -> None:
    answer = answered(completion({"content": "a", "tool_calls": [call("f", "{", ident="c")]}, finish=finish))
    assert answer.status == status
    assert (answer.incomplete_details.reason if answer.incomplete_details else None) == reason
    assert (answer.error is not None) == (status == "failed")
    whole = "completed" if status == "completed" else "incomplete"
    assert [item.status for item in answer.output] == ["completed", whole]
    assert answer.usage is None


def test_a_completion_without_choices_is_a_failed_answer() -> None:
    assert answered({"id": "x", "choices": []}).status == "failed"


def test_an_empty_text_is_a_message_unless_there_is_something_else() -> None:
    assert [item.type for item in answered(completion({"content": ""})).output] == ["message"]
    assert answered(completion({"content": None})).output == []
    called = {"content": "", "tool_calls": [call("f", "", ident="c")]}
    assert [item.type for item in answered(completion(called)).output] == ["function_call"]


def test_reasoning_is_found_under_either_name_and_can_be_handed_back_unread() -> None:
    for name in ("reasoning_content", "reasoning"):
        whole = completion({"content": "a", name: " think "})
        (reasoning, _) = answered(whole, include=["reasoning.encrypted_content"]).output
        assert reasoning.content[0].text == " think "
        sealed = {"type": "reasoning", "id": "rs_1", "encrypted_content": reasoning.encrypted_content}
        assert "think" not in reasoning.encrypted_content
        asks = asked(input=[{"role": "user", "content": "q"}, sealed, {"role": "assistant", "content": "a"}])
        said = WIRE.to_chat(asks)["messages"]
        assert said[1] == {"role": "assistant", "content": "a", "reasoning_content": " think "}
        assert answered(whole).output[0].encrypted_content is None


def test_a_refusal_is_a_part_of_the_message() -> None:
    answer = answered(completion({"refusal": "I won't"}))
    assert answer.output[0].content[0].to_dict() == {"type": "refusal", "refusal": "I won't"}


def test_links_of_a_text_are_annotations() -> None:
    link = {"start_index": 0, "end_index": 1, "title": "t", "url": "https://host"}
    annotations = [{"type": "url_citation", "url_citation": link}]
    whole = completion({"content": "a", "annotations": annotations})
    answer = answered(whole)
    assert answer.output[0].content[0].annotations[0].to_dict() == {"type": "url_citation", **link}
    back = WIRE.completion(WIRE.answer(whole, request=asked()))
    assert back["choices"][0]["message"]["annotations"] == annotations


def test_logprobs_are_there_only_if_they_were_asked_for() -> None:
    whole = completion({"content": "ab"})
    whole["choices"][0]["logprobs"] = {
        "content": [entry("a", -0.5, ("a", -0.5), ("c", -2.0)), entry("b", -1.0)]
    }
    assert answered(whole).output[0].content[0].logprobs == []
    for fields in ({"include": [LOGPROBS]}, {"top_logprobs": 2}):
        found = answered(whole, **fields).output[0].content[0].logprobs
        assert [(one.token, one.logprob) for one in found] == [("a", -0.5), ("b", -1.0)]
        assert [(one.token, one.logprob) for one in found[0].top_logprobs] == [("a", -0.5), ("c", -2.0)]


def test_logprobs_are_those_of_the_text_alone() -> None:
    tokens = ["a", "b", "</think>", "", "a", "b", "<call>", "ab", "<end>"]
    whole = completion(
        {"content": "ab", "reasoning_content": "ab", "tool_calls": [call("f", "ab", ident="c")]}
    )
    whole["choices"][0]["logprobs"] = {"content": [entry(token, -float(n)) for n, token in enumerate(tokens)]}
    found = answered(whole, include=[LOGPROBS]).output[1].content[0].logprobs
    assert [one.logprob for one in found] == [-4.0, -5.0]


def test_logprobs_of_tokens_that_are_not_the_text_are_all_given() -> None:
    whole = completion({"content": "é"})
    odd = {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    whole["choices"][0]["logprobs"] = {"content": [odd, odd]}
    found = answered(whole, include=[LOGPROBS]).output[0].content[0].logprobs
    assert [one.bytes for one in found] == [list("\N{REPLACEMENT CHARACTER}".encode())] * 2


def test_ids_are_those_of_the_completion_or_else_of_time_and_request() -> None:
    whole = completion({"content": "a"})
    assert WIRE.answer({**whole, "id": "resp_1"}, request=asked())["id"] == "resp_1"
    assert WIRE.answer({**whole, "id": "x"}, request=asked())["id"] == "resp_x"
    nameless = {**whole, "id": None}
    first = WIRE.answer(nameless, request=asked())["id"]
    assert first == WIRE.answer(nameless, request=asked())["id"]
    assert first != WIRE.answer(nameless, request=asked(input="other"))["id"]


def test_calls_without_an_id_are_given_the_same_one_everywhere() -> None:
    whole = completion({"tool_calls": [{**call("f", "", ident="c"), "id": None}] * 2})
    (first, second) = answered(whole).output
    assert (first.call_id, second.call_id) == ("call_1", "call_1_1")
    kept = WIRE.history(asked(), {"messages": []}, whole)
    assert [one["id"] for one in kept[-1]["tool_calls"]] == ["call_1", "call_1_1"]


def test_a_later_request_goes_on_from_the_history_without_instructions() -> None:
    first = asked(instructions="be brief")
    whole = completion({"content": "a", "reasoning": "hm", "audio": None})
    kept = WIRE.history(first, WIRE.to_chat(first), whole)
    assert kept == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a", "reasoning": "hm"},
    ]
    then = WIRE.to_chat(asked(input="more", instructions="be long"), before=kept)["messages"]
    assert then[0] == {"role": "system", "content": "be long"}
    assert then[1:] == [*kept, {"role": "user", "content": "more"}]
    system = asked(input=[{"role": "system", "content": "stay"}, {"role": "user", "content": "hi"}])
    assert WIRE.history(system, WIRE.to_chat(system), whole)[0] == {"role": "system", "content": "stay"}


def test_answers_of_other_servers_are_read() -> None:
    answer = {
        "id": "resp_9",
        "created_at": 7.5,
        "model": "m",
        "status": "completed",
        "output": [
            {"type": "web_search_call", "id": "ws"},
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "s1"}]},
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "xyz"},
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [{"type": "summary_text", "text": "s2"}, {"type": "summary_text", "text": "s3"}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [{"type": "file_citation"}]},
                    {"type": "output_text", "text": "b"},
                ],
            },
            {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "raw"},
        ],
    }
    assert WIRE.completion(answer) == {
        "id": "chatcmpl-9",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "reasoning_content": "s1\n\ns2\n\ns3",
                    "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "n", "input": "raw"}}],
                },
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ],
    }


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        ({}, 502, "`output` is None"),
        ({"output": "x"}, 502, "'x'"),
        (
            {"output": [], "status": "failed", "error": {"code": "server_error", "message": "boom"}},
            502,
            "boom",
        ),
        (
            {"output": [], "status": "failed", "error": {"code": "rate_limit_exceeded"}},
            429,
            "rate_limit_exceeded",
        ),
        ({"output": [], "status": "queued"}, 502, "'queued'"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_upstream(
    answer: dict[str, Any], status: int, told: str
) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.completion(answer)
    assert caught.value.status == status
    assert told in caught.value.message


def test_errors_have_the_form_of_the_api() -> None:
    error = json.loads(WIRE.error(bad_request("`x` is wrong")))["error"]
    assert error["message"] == "`x` is wrong"
    assert error["type"] == "invalid_request_error"


COUNTS = st.integers(0, 99)
USAGE = st.builds(
    lambda asked, said, cached, written, thought: {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": thought},
    },
    *[COUNTS] * 5,
)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    """What a chat model may answer and Responses can say."""
    calls = [call(draw(SAID), draw(TEXT), ident=f"c{place}") for place in range(draw(st.integers(0, 3)))]
    refusal = draw(st.none() | SAID)
    tokens = draw(st.lists(SAID, max_size=4))
    content: str | None = "".join(tokens)
    if not content and (calls or refusal or draw(st.booleans())):
        content = None
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if refusal:
        message["refusal"] = refusal
    if thought := draw(TEXT):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    finish = draw(st.sampled_from(["tool_calls" if calls else "stop", "length", "content_filter"]))
    whole = completion(message, finish=finish)
    if content and draw(st.booleans()):
        whole["choices"][0]["logprobs"] = {"content": [entry(token, -1.0, (token, -1.0)) for token in tokens]}
    if draw(st.booleans()):
        whole["usage"] = draw(USAGE)
    return whole


@settings(max_examples=100, deadline=None)
@given(whole=completions())
def test_a_completion_comes_back_as_it_was(whole: dict[str, Any]) -> None:
    answer = WIRE.answer(whole, request=asked(include=[LOGPROBS]))
    Response.model_validate(answer)
    assert WIRE.completion(answer) == whole


@settings(max_examples=100, deadline=None)
@given(whole=completions())
def test_an_answer_handed_back_as_input_is_the_message_that_was_answered(whole: dict[str, Any]) -> None:
    answer = WIRE.answer(whole, request=asked())
    user = {"role": "user", "content": "hi"}
    following = {"role": "user", "content": "more"}
    chat = WIRE.to_chat(asked(input=[user, *answer["output"], following]))
    message = whole["choices"][0]["message"]
    said = chat["messages"][1:-1]
    if not answer["output"]:
        assert said == []
    elif set(message) == {"role", "content", "reasoning_content"} and message["content"] is None:
        assert said == [{**message, "content": ""}]
    else:
        assert said == [message]
