from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ErrorResponse, Message
from pydantic import TypeAdapter

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.messages import Messages

WIRE = Messages()
REQUEST = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def completion(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": finish,
    }
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        **fields,
    }


def answer(
    message: dict[str, Any], finish: str | None = "stop", *, asked: Any = None, **fields: Any
) -> dict[str, Any]:
    """The answer to a completion, which the SDK's own type must take without a change."""
    found = WIRE.answer(completion(message, finish, **fields), request={**REQUEST, **(asked or {})})
    read = TypeAdapter(Message).validate_python(found, strict=True)
    assert read.to_dict(exclude_unset=True) == found
    return found


def call(arguments: str, ident: str | None = "call_1", name: str = "f") -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_a_text_is_answered_to_the_byte() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    assert answer({"content": " ok\n"}, usage=usage) == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [text(" ok\n")],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
        },
    }


def test_reasoning_then_text_then_calls() -> None:
    found = answer(
        {"reasoning_content": "hm", "content": "so", "tool_calls": [call('{"a": 1}'), call("{}", None, "g")]},
        "tool_calls",
    )
    assert [block["type"] for block in found["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert found["content"][0]["thinking"] == "hm"
    assert found["content"][0]["signature"]
    assert found["content"][2:] == [
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_7_1", "name": "g", "input": {}},
    ]
    assert found["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        ({"content": "a"}, "stop", "end_turn"),
        ({"content": "a"}, "length", "max_tokens"),
        ({"content": "a"}, "content_filter", "refusal"),
        ({"content": "a"}, None, "end_turn"),
        ({"content": "a"}, "something new", "end_turn"),
        ({"tool_calls": [call("{}")]}, "tool_calls", "tool_use"),
        ({"tool_calls": [call("{}")]}, "stop", "tool_use"),
        ({"tool_calls": [call("{}")]}, None, "tool_use"),
        ({"tool_calls": [call('{"a')]}, "length", "max_tokens"),
        ({"refusal": "no"}, "stop", "refusal"),
    ],
)
def test_why_an_answer_ended(message: dict[str, Any], finish: str | None, reason: str) -> None:
    assert answer(message, finish)["stop_reason"] == reason


def test_a_stop_sequence_is_told_where_the_server_tells_it() -> None:
    asked = {"stop_sequences": ["END", "\n"]}
    found = completion({"content": "a"})
    found["choices"][0]["stop_reason"] = "\n"
    native = WIRE.answer(found, request={**REQUEST, **asked})
    assert (native["stop_reason"], native["stop_sequence"]) == ("stop_sequence", "\n")
    for other in (None, 128009, "not asked"):
        found["choices"][0]["stop_reason"] = other
        native = WIRE.answer(found, request={**REQUEST, **asked})
        assert (native["stop_reason"], native["stop_sequence"]) == ("end_turn", None)


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_an_answer_that_the_server_gave_up_is_a_failure(finish: str) -> None:
    with pytest.raises(ApiError, match=finish) as caught:
        answer({"content": "half of"}, finish)
    assert caught.value.status == 502


def test_a_completion_without_choices_is_a_failure() -> None:
    with pytest.raises(ApiError, match="choices"):
        WIRE.answer({"id": "x", "choices": []}, request=REQUEST)


def test_an_empty_answer_has_an_empty_text() -> None:
    for content in ("", None, []):
        assert answer({"content": content})["content"] == [text("")]
    assert [block["type"] for block in answer({"content": "", "reasoning": "hm"})["content"]] == ["thinking"]


def test_content_in_parts_is_one_text() -> None:
    assert answer({"content": [text("a "), text("b")]})["content"] == [text("a b")]


def test_a_refusal_is_what_was_said() -> None:
    assert answer({"content": "Well. ", "refusal": "No."})["content"] == [text("Well. "), text("No.")]


def test_tokens_that_a_cache_served_are_counted_apart() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    found = answer({"content": "a"}, usage=usage, service_tier="default")
    assert found["usage"] == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
        "service_tier": "standard",
    }
    back = WIRE.completion(found)
    assert back["usage"] == {**usage, "total_tokens": 109}
    assert back["service_tier"] == "default"


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": None}, {"prompt_tokens": -3, "completion_tokens": "x"},
     {"prompt_tokens": 1e400, "prompt_tokens_details": {"cached_tokens": 5}}],
)  # fmt: skip
def test_usage_that_nobody_can_read_is_zero(usage: Any) -> None:
    found = answer({"content": "a"}, usage=usage)["usage"]
    assert (found["input_tokens"], found["output_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": ',
        "not json",
        "[1, 2]",
        '"text"',
        "null",
        "{} trailing",
        '{"a": NaN}',
        '{"_raw_arguments": "x"}',
        '{"_raw_arguments":"{\\"_raw_arguments\\": \\"x\\"}"}',
        '{"a": 1e999}',
        '{"a":' * 5000,
        '{"a":' * 900 + "1" + "}" * 900,
        '{"a": ["\\u0000"]}',
        '{"\\u0000": 1}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_arguments_that_are_no_object_are_kept_to_the_byte(arguments: str) -> None:
    found = answer({"tool_calls": [call(arguments)]}, "tool_calls")
    assert found["content"][0]["input"] == {"_raw_arguments": arguments}
    assert WIRE.completion(found)["choices"][0]["message"]["tool_calls"] == [call(arguments)]
    turn = [*REQUEST["messages"], {"role": "assistant", "content": found["content"]}, *REQUEST["messages"]]
    (said,) = WIRE.to_chat({**REQUEST, "messages": turn})["messages"][1:2]
    assert said["tool_calls"] == [call(arguments)]
    assert WIRE.from_chat({"model": "m", "messages": [said]})["messages"][0]["content"] == found["content"]


def test_a_member_of_that_name_among_others_is_one_like_any() -> None:
    found = answer({"tool_calls": [call('{"_raw_arguments":"x","b":1}')]}, "tool_calls")
    assert found["content"][0]["input"] == {"_raw_arguments": "x", "b": 1}
    assert WIRE.completion(found)["choices"][0]["message"]["tool_calls"] == [
        call('{"_raw_arguments":"x","b":1}')
    ]


def test_what_only_looks_like_a_nul_is_none() -> None:
    (use,) = answer({"tool_calls": [call('{"a": "\\\\u0000"}')]}, "tool_calls")["content"]
    assert use["input"] == {"a": "\\u0000"}


def test_arguments_that_come_back_are_those_that_a_request_can_hold() -> None:
    for depth in (40, 48, 49, 63):
        (use,) = answer({"tool_calls": [call('{"a":' * depth + "1" + "}" * depth)]}, "tool_calls")["content"]
        turn = [*REQUEST["messages"], {"role": "assistant", "content": [use]}, *REQUEST["messages"]]
        WIRE.parse(json.dumps({**REQUEST, "messages": turn}).encode())
        assert ("_raw_arguments" in use["input"]) == (depth > 48)


@pytest.mark.parametrize("arguments", ["", "  \n", "{}"])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    assert answer({"tool_calls": [call(arguments)]})["content"][0]["input"] == {}


def test_reasoning_may_be_asked_for_without_its_text() -> None:
    found = answer({"reasoning_content": "hm ü", "content": "so"}, asked={"thinking": {"display": "omitted"}})
    thought = found["content"][0]
    assert thought["thinking"] == ""
    turn = [*REQUEST["messages"], {"role": "assistant", "content": found["content"]}, *REQUEST["messages"]]
    said = WIRE.to_chat({**REQUEST, "messages": turn})["messages"][1]
    assert said["reasoning_content"] == "hm ü"
    assert WIRE.completion(found)["choices"][0]["message"]["reasoning_content"] == "hm ü"


def test_blocks_that_nobody_has_signed_are_signed_here() -> None:
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    (block,) = answer({"reasoning_content": "hm", "thinking_blocks": [unsigned]})["content"]
    assert block["thinking"] == "hm"
    assert block["signature"]


def test_an_id_is_made_where_there_is_none_and_the_same_each_time() -> None:
    found = completion({"content": "a"})
    del found["id"]
    first, second = (WIRE.answer(found, request=REQUEST)["id"] for _ in range(2))
    assert first == second
    assert first != WIRE.answer(found, request={**REQUEST, "max_tokens": 10})["id"]


def native(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [*content],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 5},
        **fields,
    }


def test_a_native_answer_is_a_completion() -> None:
    found = WIRE.completion(
        native(
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "x"},
            text("a "),
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            text(
                "b",
            ),
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"q": "ü"}},
            stop_reason="tool_use",
        )
    )
    assert found == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "a b",
                    "reasoning_content": "hm",
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                        {"type": "redacted_thinking", "data": "x"},
                    ],
                    "tool_calls": [call('{"q":"ü"}', "t1")],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 15,
            "completion_tokens": 2,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        },
    }
    again = WIRE.answer(found, request=REQUEST)
    assert [block["type"] for block in again["content"]] == [
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
    ]
    assert again["content"][0]["signature"] == "c2ln"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        (None, "stop"),
        (["odd"], "stop"),
    ],
)
def test_finish_reasons(reason: Any, finish: str) -> None:
    assert WIRE.completion(native(text("a"), stop_reason=reason))["choices"][0]["finish_reason"] == finish


def test_a_stop_sequence_that_matched_is_kept() -> None:
    (choice,) = WIRE.completion(native(text("a"), stop_reason="stop_sequence", stop_sequence="END"))[
        "choices"
    ]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")


@pytest.mark.parametrize("found", [{}, {"content": "a"}, {"content": None}])
def test_what_is_no_answer_is_a_failure(found: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.completion(found)
    assert caught.value.status == 502


def test_an_error_in_place_of_an_answer_is_a_failure() -> None:
    with pytest.raises(ApiError, match="too busy") as caught:
        WIRE.completion({"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}})
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors_have_the_type_of_their_status(status: int, kind: str) -> None:
    body = WIRE.error(ApiError(status, "what to do", fault="gateway_error"))
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "what to do"}}
    if kind != "request_too_large":  # the SDK has no type for it
        TypeAdapter(ErrorResponse).validate_json(body)
