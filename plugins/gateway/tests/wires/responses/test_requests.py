from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.responses import Responses

WIRE = Responses()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SAID = TEXT.filter(bool)
NAME = st.sampled_from(["look_up", "f", "überall", "a-b"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SCHEMA = st.dictionaries(SAID, JSON, max_size=2)


def asked(**fields: Any) -> dict[str, Any]:
    return WIRE.parse(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def messages(*items: Any, **fields: Any) -> Any:
    return WIRE.to_chat(asked(input=list(items), **fields))["messages"]


def status(call: Callable[[], Any]) -> int:
    """400 or so for what is refused, 200 for what is not."""
    try:
        call()
    except ApiError as error:
        return error.status
    return 200


def refused(**fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        WIRE.to_chat(asked(**fields))
    assert caught.value.status == 400
    assert caught.value.final
    return caught.value.message


def test_a_text_is_what_the_user_says() -> None:
    assert WIRE.to_chat(asked(input=" hi\n")) == {
        "model": "m",
        "messages": [{"role": "user", "content": " hi\n"}],
    }


def test_instructions_come_first_then_what_came_before_then_the_input() -> None:
    before = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    chat = WIRE.to_chat(
        asked(input="3", instructions="be brief", previous_response_id="resp_1"), before=before
    )
    assert chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            *before,
            {"role": "user", "content": "3"},
        ],
    }


def test_parts_of_a_message_are_texts_images_files_and_audio() -> None:
    parts = [
        {"type": "input_text", "text": " look "},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "high"},
        {"type": "input_image", "image_url": "https://host/x.png", "detail": "auto"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert messages({"role": "user", "content": parts}) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": " look "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "high"}},
                {"type": "image_url", "image_url": {"url": "https://host/x.png"}},
                {
                    "type": "file",
                    "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
                },
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        }
    ]


def test_items_of_one_turn_are_one_message_of_the_assistant() -> None:
    said = {"type": "output_text", "text": "let me see", "annotations": []}
    assert messages(
        {"role": "user", "content": "weather?"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "message", "role": "assistant", "content": "fine"},
    ) == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "let me see",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "fine"},
    ]


def test_two_messages_of_the_assistant_stay_two() -> None:
    assert messages(
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
        {"role": "assistant", "content": "c"},
    ) == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "c", "reasoning_content": "t"},
    ]


def test_reasoning_in_several_items_is_one_text() -> None:
    thoughts = [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]} for text in "ab"]
    assert messages(*thoughts) == [{"role": "assistant", "content": "", "reasoning_content": "a\n\nb"}]


def test_nothing_comes_between_calls_and_their_answers() -> None:
    said = messages(
        {"type": "message", "role": "assistant", "content": "a"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "message", "role": "assistant", "content": "b"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": ""},
        {"type": "function_call_output", "call_id": "c2", "output": ""},
    )
    assert [message["role"] for message in said] == ["assistant", "tool", "tool"]
    assert said[0]["content"] == "ab"
    assert [call["id"] for call in said[0]["tool_calls"]] == ["c1", "c2"]


def test_a_refusal_is_told_as_one() -> None:
    refusal = {"type": "refusal", "refusal": "no"}
    assert messages({"type": "message", "role": "assistant", "content": [refusal]}) == [
        {"role": "assistant", "content": None, "refusal": "no"}
    ]


@pytest.mark.parametrize("broken", ["agl1.!", "agl1.é", "agl1.gAAAAB"])
def test_reasoning_that_others_have_encrypted_is_left_out(broken: str) -> None:
    sealed = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAAAB"}
    wrong = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": broken}
    assert messages(
        {"role": "user", "content": "a"}, sealed, wrong, {"role": "assistant", "content": "b"}
    ) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
        ),
    ],
)
def test_a_choice_of_tools_is_nested_in_chat(choice: Any, chat: Any) -> None:
    function = {"name": "f", "parameters": {"type": "object"}, "description": "d"}
    request = asked(tools=[{"type": "function", "strict": False, **function}], tool_choice=choice)
    translated = WIRE.to_chat(request)
    assert translated["tools"] == [{"type": "function", "function": function}]
    assert translated["tool_choice"] == chat
    back = WIRE.from_chat(translated)
    assert back["tool_choice"] == choice
    assert back["tools"] == request["tools"]


def test_options_have_their_names_in_chat() -> None:
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    alike = {
        "temperature": 0.5,
        "top_p": 0.25,
        "metadata": {"a": "b"},
        "store": False,
        "user": "u",
        "safety_identifier": "s",
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "stream": True,
        "seed": 1,
        "top_k": 3,
    }
    chat = WIRE.to_chat(
        asked(
            **alike,
            max_output_tokens=7,
            reasoning={"effort": "low", "summary": "auto"},
            text={"format": {"type": "json_schema", **schema}, "verbosity": "low"},
            include=["message.output_text.logprobs", "reasoning.encrypted_content"],
            top_logprobs=2,
            truncation="disabled",
            background=False,
            conversation=None,
            max_tool_calls=3,
            stream_options={"include_obfuscation": False},
        )
    )
    assert chat == {
        **alike,
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 7,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"background": True}, "`background`"),
        ({"conversation": "conv_1"}, "`conversation`"),
        ({"prompt": {"id": "pmpt_1"}}, "`prompt`"),
        ({"truncation": "auto"}, "`truncation`"),
        ({"moderation": {"model": "x"}}, "`moderation`"),
        ({"max_tokens": 5}, "`max_tokens`"),
        ({"logprobs": True}, "`logprobs`"),
        ({"messages": []}, "`messages`"),
        ({"reasoning": {"mode": "pro"}}, "`reasoning.mode`"),
        ({"text": {"format": {"type": "grammar"}}}, "grammar"),
        ({"tools": [{"type": "web_search"}]}, "'web_search'"),
        ({"tools": [{"type": "mcp", "server_label": "s"}]}, "'mcp'"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "'custom'"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "`defer_loading`"),
        ({"tools": [{"type": "function"}]}, "`name`"),
        ({"tool_choice": {"type": "file_search"}}, "'file_search'"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}}, "'mcp'"),
        ({"tool_choice": "some"}, "'some'"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "refers to an item by its id"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "'web_search_call'"),
        ({"input": [{"role": "robot", "content": "x"}]}, "'robot'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "`file_id`"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "f"}]}]}, "`file_url`"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]}, "'input_image'"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "`call_id`"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "`arguments`"),
        ({"input": []}, "nothing to answer"),
    ],
)
def test_what_chat_completions_cannot_ask_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    assert named in refused(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 2}, "`n`"),
        ({"stop": ["x"]}, "`stop`"),
        ({"frequency_penalty": 0.5}, "`frequency_penalty`"),
        ({"logit_bias": {"1": 2}}, "`logit_bias`"),
        ({"modalities": ["audio"]}, "`modalities`"),
        ({"functions": [{"name": "f"}]}, "`functions`"),
        ({"response_format": {"type": "grammar"}}, "grammar"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "'custom'"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "c"}}}, "'custom'"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "'function'"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "`audio`"),
        ({"messages": []}, "`messages`"),
    ],
)
def test_what_responses_cannot_ask_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.from_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    assert caught.value.status == 400
    assert named in caught.value.message


def test_what_chat_completions_ask_in_vain_is_dropped() -> None:
    dropped = {
        "seed": 3,
        "n": 1,
        "frequency_penalty": 0,
        "stop": None,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **dropped}
    assert WIRE.from_chat(chat) == {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{",
        '{"model": "m"}',
        '{"model": "", "input": "x"}',
        '{"model": "m", "input": 3}',
        '{"model": "m", "input": ["x"]}',
        '{"model": "m", "input": "x", "stream": 1}',
        '{"model": "m", "input": "x", "n": 2}',
        '{"model": "m", "input": "x", "max_output_tokens": 0}',
        '{"model": "m", "input": "x", "max_output_tokens": 1e9}',
        '{"model": "m", "input": "x", "top_logprobs": 21}',
        '{"model": "m", "input": "x", "tools": {}}',
        '{"model": "m", "input": "x", "tools": ["f"]}',
        '{"model": "m", "input": "x", "include": "all"}',
        '{"model": "m", "input": "x", "text": "short"}',
        '{"model": "m", "input": "x", "instructions": ["x"]}',
        '{"model": "m", "input": "a\\u0000"}',
        '{"model": "m", "input": "a\\ud800"}',
        '{"model": "m", "input": ' + '[{"content":' * 40 + "1" + "}]" * 40 + "}",
    ],
)
def test_a_body_that_is_no_request_is_refused(body: str) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.parse(body.encode())
    assert caught.value.status == 400


def test_an_earlier_answer_or_a_conversation_stands_in_for_the_input() -> None:
    for name in ("previous_response_id", "conversation"):
        assert WIRE.parse(json.dumps({"model": "m", name: "x"}).encode())[name] == "x"


ITEM_WORDS = st.sampled_from(
    [
        "type", "role", "content", "call_id", "name", "arguments", "output", "summary", "text", "image_url", "id",
        "encrypted_content", "input_text", "output_text", "refusal", "message", "reasoning", "function_call",
        "function_call_output", "assistant", "user", "function", "input_image", "input_file", "json_schema", "tools",
    ]
)  # fmt: skip
SHAPED = st.recursive(
    JSON | ITEM_WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ITEM_WORDS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "top_logprobs", "stream",
        "max_output_tokens", "truncation", "background", "previous_response_id", "metadata", "n", "model",
    ]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(body=st.dictionaries(FIELDS | TEXT, SHAPED, max_size=5), items=st.lists(SHAPED, max_size=3))
def test_whatever_is_sent_is_understood_or_refused(body: dict[str, Any], items: list[Any]) -> None:
    for request in ({"model": "m", "input": items, **body}, {"model": "m", "input": "x", **body}):
        raw = json.dumps(request).encode()
        assert status(lambda raw=raw: WIRE.to_chat(WIRE.parse(raw))) in {200, 400}
        assert status(lambda request=request: WIRE.to_chat(request)) in {200, 400}


@settings(max_examples=100, deadline=None)
@given(body=st.dictionaries(FIELDS | ITEM_WORDS, SHAPED, max_size=5), items=st.lists(SHAPED, max_size=3))
def test_whatever_chat_asks_is_understood_or_refused(body: dict[str, Any], items: list[Any]) -> None:
    assert status(lambda: WIRE.from_chat({"model": "m", "messages": items, **body})) in {200, 400}


def part_of_chat() -> st.SearchStrategy[dict[str, Any]]:
    url = st.fixed_dictionaries({"url": SAID}, optional={"detail": st.sampled_from(["low", "high"])})
    file = st.fixed_dictionaries({}, optional={"file_data": SAID, "filename": SAID, "file_id": SAID})
    audio = st.fixed_dictionaries({"data": TEXT, "format": st.sampled_from(["wav", "mp3"])})
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
        st.fixed_dictionaries({"type": st.just("image_url"), "image_url": url}),
        st.fixed_dictionaries({"type": st.just("file"), "file": file}),
        st.fixed_dictionaries({"type": st.just("input_audio"), "input_audio": audio}),
    )


@st.composite
def turns_of_chat(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What the user says, and maybe what the assistant answers and its tools return."""
    heard = TEXT | st.lists(part_of_chat(), max_size=3)
    role = draw(st.sampled_from(["user", "user", "developer", "system"]))
    said: list[dict[str, Any]] = [{"role": role, "content": draw(heard)}]
    if not draw(st.booleans()):
        return said
    calls = [
        {"id": f"c{place}", "type": "function", "function": {"name": draw(NAME), "arguments": draw(TEXT)}}
        for place in range(draw(st.integers(0, 3)))
    ]
    refusal = draw(st.none() | SAID)
    parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), min_size=2, max_size=3)
    silent = calls or refusal
    content = draw((st.none() | SAID if silent else TEXT) | parts)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thought := draw(TEXT):
        message["reasoning_content"] = thought
    if refusal:
        message["refusal"] = refusal
    if calls:
        message["tool_calls"] = calls
    said.append(message)
    answers = draw(st.permutations(calls))
    return said + [{"role": "tool", "tool_call_id": call["id"], "content": draw(heard)} for call in answers]


def option_of_chat() -> st.SearchStrategy[dict[str, Any]]:
    function = st.fixed_dictionaries(
        {"name": NAME}, optional={"description": TEXT, "parameters": SCHEMA, "strict": st.just(True)}
    )
    named = st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": NAME})}
    )
    allowed = st.fixed_dictionaries(
        {"mode": st.sampled_from(["auto", "required"]), "tools": st.lists(named, max_size=2)}
    )
    schema = st.fixed_dictionaries(
        {"name": NAME, "schema": SCHEMA}, optional={"strict": st.booleans(), "description": TEXT}
    )
    return st.fixed_dictionaries(
        {"model": SAID},
        optional={
            "tools": st.lists(
                st.fixed_dictionaries({"type": st.just("function"), "function": function}), max_size=3
            ),
            "tool_choice": st.sampled_from(["auto", "none", "required"])
            | named
            | st.fixed_dictionaries({"type": st.just("allowed_tools"), "allowed_tools": allowed}),
            "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}])
            | st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": schema}),
            "reasoning_effort": st.sampled_from(["none", "low", "high"]),
            "verbosity": st.sampled_from(["low", "high"]),
            "max_completion_tokens": st.integers(1, 99),
            "logprobs": st.just(True),
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0.1, 1),
            "metadata": st.dictionaries(SAID, TEXT, max_size=2),
            "store": st.booleans(),
            "stream": st.booleans(),
            "user": SAID,
            "safety_identifier": SAID,
            "service_tier": SAID,
            "prompt_cache_key": SAID,
            "parallel_tool_calls": st.booleans(),
        },
    )


@settings(max_examples=100, deadline=None)
@given(
    options=option_of_chat(),
    turns=st.lists(turns_of_chat(), min_size=1, max_size=4),
    system=st.none() | TEXT,
    most=st.none() | st.integers(0, 20),
)
def test_a_chat_request_comes_back_as_it_was(
    options: dict[str, Any], turns: list[list[dict[str, Any]]], system: str | None, most: int | None
) -> None:
    chat = {**options, "messages": [message for turn in turns for message in turn]}
    if system is not None:
        chat["messages"].insert(0, {"role": "system", "content": system})
    if most is not None and "logprobs" in chat:
        chat["top_logprobs"] = most
    native = WIRE.from_chat(chat)
    assert WIRE.parse(json.dumps(native).encode()) == native
    assert WIRE.to_chat(native) == chat
