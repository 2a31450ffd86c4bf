from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.messages import Messages

WIRE = Messages()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SAID = TEXT.filter(bool)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["look_up", "f", "überall", "a-b"])
TOOL = {"name": "look_up", "description": "finds", "input_schema": {"type": "object", "properties": {}}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "finds", "parameters": TOOL["input_schema"]},
}


def asked(*content: Any, **fields: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": [*content] or "hi"}]
    return WIRE.parse(json.dumps({"model": "m", "max_tokens": 9, "messages": said, **fields}).encode())


def messages(*turns: dict[str, Any], **fields: Any) -> Any:
    return WIRE.to_chat(asked(messages=[*turns], **fields))["messages"]


def chat_of(**fields: Any) -> dict[str, Any]:
    chat = WIRE.to_chat(asked(**fields))
    return {
        name: value
        for name, value in chat.items()
        if name not in ("model", "messages", "max_completion_tokens")
    }


def native_of(**fields: Any) -> dict[str, Any]:
    native = WIRE.from_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    return {name: value for name, value in native.items() if name not in ("model", "messages")}


def refused(**fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        WIRE.to_chat(asked(**fields))
    assert caught.value.status == 400
    assert caught.value.final
    return caught.value.message


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [*blocks]}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


def call(ident: str = "t1", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": ident, "name": "look_up", "input": given}


def result(content: Any, ident: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": ident, "content": content, **fields}


def test_a_text_stays_a_text_to_the_byte() -> None:
    assert WIRE.to_chat(asked(messages=[{"role": "user", "content": " hi\n"}])) == {
        "model": "m",
        "max_completion_tokens": 9,
        "messages": [{"role": "user", "content": " hi\n"}],
    }


def test_the_system_prompt_comes_first_then_what_came_before() -> None:
    before = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    chat = WIRE.to_chat(asked(system="be brief"), before=before)
    assert chat["messages"] == [
        {"role": "system", "content": "be brief"},
        *before,
        {"role": "user", "content": "hi"},
    ]


def test_blocks_of_a_system_prompt_stay_apart_and_lose_their_caching() -> None:
    blocks = [text("a "), text(" b", cache_control={"type": "ephemeral"})]
    request = asked(system=blocks)
    assert WIRE.to_chat(request)["messages"][0] == {"role": "system", "content": [text("a "), text(" b")]}
    assert request["system"] == blocks


def test_an_empty_system_prompt_is_none() -> None:
    for system in ("", [], None):
        assert [message["role"] for message in WIRE.to_chat(asked(system=system))["messages"]] == ["user"]


def test_a_system_message_stays_where_it_is() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert messages(*turns) == turns


def test_images_are_data_urls_or_urls() -> None:
    data = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    (said,) = messages(user(text("look"), data, link))
    assert said["content"] == [
        text("look"),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]
    assert WIRE.from_chat({"model": "m", "messages": [said]})["messages"] == [user(text("look"), data, link)]


def test_a_document_of_text_is_a_text_with_its_title_and_context() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "It says.\n"}
    parts = {"type": "content", "content": [text("It "), text("says.")]}
    document = {
        "type": "document",
        "source": plain,
        "title": "T",
        "context": "from B",
        "citations": {"enabled": False},
    }
    (said,) = messages(user(document, {"type": "document", "source": parts}))
    assert said["content"] == [text("T\n\nfrom B\n\nIt says.\n"), text("It says.")]


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}},
            "base64",
        ),
        (
            {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}},
            "citations",
        ),
        (
            {
                "type": "document",
                "source": {
                    "type": "content",
                    "content": [{"type": "image", "source": {"type": "url", "url": "u"}}],
                },
            },
            "image",
        ),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "file"),
        ({"type": "image", "source": {"type": "url", "url": "u"}, "transformations": {}}, "transformations"),
        ({"type": "search_result", "content": []}, "search_result"),
        ({"type": "container_upload", "file_id": "f"}, "container_upload"),
    ],
)
def test_what_chat_cannot_show_is_refused_by_name(block: dict[str, Any], named: str) -> None:
    message = refused(messages=[user(block)])
    assert named in message
    assert "`messages[0]`" in message


def test_calls_and_results_are_messages_of_their_own() -> None:
    assert messages(
        {"role": "user", "content": "hi"},
        assistant(text("let me see "), call("t1", q="a", n=[1.5]), call("t2")),
        user(result("one", "t1"), result([text("two")], "t2"), text("and now?")),
    ) == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "let me see ",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "look_up", "arguments": '{"q":"a","n":[1.5]}'},
                },
                {"id": "t2", "type": "function", "function": {"name": "look_up", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": [text("two")]},
        {"role": "user", "content": [text("and now?")]},
    ]


def test_results_come_before_what_else_the_user_says() -> None:
    said = messages(user(text("a"), result("r"), text("b")))
    assert [message["role"] for message in said] == ["tool", "user"]
    assert said[1]["content"] == [text("a"), text("b")]


def test_a_result_may_show_an_image_or_nothing() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    shown, nothing = messages(user(result([image]), {"type": "tool_result", "tool_use_id": "t2"}))
    assert shown["content"] == [{"type": "image_url", "image_url": {"url": "u"}}]
    assert nothing == {"role": "tool", "tool_call_id": "t2", "content": ""}


@pytest.mark.parametrize("content", ["no such\nfile", "", [text("no"), text("file")], []])
def test_that_a_tool_failed_is_told_in_its_text_and_found_there_again(content: Any) -> None:
    (told,) = messages(user(result(content, is_error=True)))
    marked = (
        told["content"] if isinstance(content, str) else "".join(part["text"] for part in told["content"])
    )
    assert marked.startswith("<error>")
    assert marked.endswith("</error>")
    back = WIRE.from_chat({"model": "m", "messages": [told]})["messages"]
    assert back == [user(result(content, is_error=True))]
    (fine,) = messages(user(result(content, is_error=False)))
    assert fine["content"] == content


def test_reasoning_is_told_and_what_only_its_maker_can_read_is_not() -> None:
    said = messages(
        {"role": "user", "content": "hi"},
        assistant(
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "thinking", "thinking": "so", "signature": "c2ln"},
            text("yes"),
        ),
        {"role": "user", "content": "ok"},
    )
    assert said[1] == {"role": "assistant", "content": "yes", "reasoning_content": "hm\n\nso"}


def test_a_turn_of_the_assistants_may_be_several_texts_or_none() -> None:
    last = {"role": "user", "content": "?"}
    said = messages(assistant(text("a"), text("b")), last, assistant(call()), last, assistant(), last)
    assert [message["content"] for message in said[::2]] == [[text("a"), text("b")], None, ""]


def test_what_the_assistant_has_begun_is_to_be_continued() -> None:
    chat = WIRE.to_chat(asked(messages=[user(text("hi")), {"role": "assistant", "content": "I"}]))
    assert chat["continue_final_message"] is True
    assert chat["add_generation_prompt"] is False
    assert "continue_final_message" not in WIRE.from_chat(chat)
    chat["messages"].append({"role": "user", "content": "go on"})
    with pytest.raises(ApiError, match="continue_final_message"):
        WIRE.from_chat(chat)


def test_tools_are_functions() -> None:
    tools = [
        {**TOOL, "type": "custom", "strict": True, "cache_control": {}},
        {"name": "f", "input_schema": {}},
    ]
    strict = {"type": "function", "function": {**CHAT_TOOL["function"], "strict": True}}
    assert chat_of(tools=tools)["tools"] == [
        strict,
        {"type": "function", "function": {"name": "f", "parameters": {}}},
    ]


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ({"type": "web_search_20250305", "name": "web_search"}, "web_search_20250305"),
        ({"type": "bash_20250124", "name": "bash"}, "bash_20250124"),
        ({**TOOL, "defer_loading": True}, "defer_loading"),
        ({**TOOL, "input_examples": [{"a": 1}]}, "input_examples"),
        ({**TOOL, "allowed_callers": ["code_execution_20260120"]}, "allowed_callers"),
        ({"name": "f"}, "input_schema"),
        ({"name": "", "input_schema": {}}, "name"),
    ],
)
def test_a_tool_that_chat_cannot_offer_is_refused_by_name(tool: dict[str, Any], named: str) -> None:
    assert named in refused(tools=[tool])


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choice_in_both_directions(choice: dict[str, Any], chat: dict[str, Any]) -> None:
    assert chat_of(tool_choice=choice) == chat
    assert native_of(**chat)["tool_choice"] == choice


def test_one_call_at_a_time_may_be_all_that_a_chat_client_asks() -> None:
    assert native_of(parallel_tool_calls=False)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    assert "tool_choice" not in native_of(parallel_tool_calls=True)
    assert native_of(tool_choice="none", parallel_tool_calls=False)["tool_choice"] == {"type": "none"}


def test_sampling_stops_and_users() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "stream": True}
    chat = chat_of(
        **fields, stop_sequences=["\n\nHuman:"], metadata={"user_id": "u"}, service_tier="standard_only"
    )
    assert chat == {**fields, "stop": ["\n\nHuman:"], "user": "u", "service_tier": "default"}
    assert native_of(**chat) == {
        **fields,
        "stop_sequences": ["\n\nHuman:"],
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
        "max_tokens": 8192,
    }


@pytest.mark.parametrize(
    ("fields", "chat"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "xhigh"}},
         {"reasoning_effort": "xhigh"}),
    ],
)  # fmt: skip
def test_how_hard_the_model_thinks(fields: dict[str, Any], chat: dict[str, Any]) -> None:
    assert chat_of(**fields) == chat


def test_reasoning_effort_of_chat() -> None:
    assert native_of(reasoning_effort="high")["output_config"] == {"effort": "high"}
    assert native_of(reasoning_effort="minimal")["output_config"] == {"effort": "low"}
    assert native_of(reasoning_effort="none")["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_structured_output(field: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    shape = {"type": "json_schema", "schema": schema}
    chat = chat_of(**{field: {"format": shape} if field == "output_config" else shape})
    assert chat == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    }
    assert native_of(**chat)["output_config"] == {"format": shape}
    assert "output_config" not in native_of(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"thinking": {"type": "between_tools"}}, "between_tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "xml"),
        ({"output_config": {"style": "terse"}}, "style"),
        ({"service_tier": "gold"}, "gold"),
        ({"mcp_servers": [{"url": "u"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "clear_tool_uses_20250919",
        ),
        ({"metadata": {"other": 1}}, "metadata.other"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_what_chat_cannot_ask_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    assert named in refused(**fields)


def test_what_asks_nothing_of_a_model_is_left_out() -> None:
    nothing = {
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "diagnostics": {"previous_message_id": None},
        "inference_geo": "eu",
        "speed": "standard",
        "container": None,
        "mcp_servers": [],
    }
    assert chat_of(**nothing) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        {"n": 2},
        {"logprobs": True},
        {"service_tier": "flex"},
        {"reasoning_effort": "huge"},
        {"frequency_penalty": 0.5},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
        {"messages": ["hi"]},
        {"stop": [1]},
    ],
)
def test_what_messages_cannot_ask_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        native_of(**fields)
    assert caught.value.status == 400


def test_token_ids_that_the_gateway_asks_for_are_done_without() -> None:
    chat = {
        "return_token_ids": True,
        "logprobs": True,
        "seed": 3,
        "stream_options": {"include_usage": True},
        "n": 1,
    }
    assert native_of(**chat) == {"max_tokens": 8192}


def test_system_messages_before_all_others_are_the_system_prompt() -> None:
    chat = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "developer", "content": [text("b")]},
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "c"},
        ],
    }
    native = WIRE.from_chat(chat)
    assert native["system"] == [text("a"), text("b")]
    assert native["messages"] == [{"role": "user", "content": "hi"}, {"role": "system", "content": "c"}]


def test_results_of_one_turn_are_one_message() -> None:
    calls = [
        {"id": ident, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for ident in ("t1", "t2")
    ]
    native = WIRE.from_chat(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "t1", "content": "1"},
                {"role": "tool", "tool_call_id": "t2", "content": "2"},
                {"role": "assistant", "content": None, "refusal": "no"},
                {"role": "user", "content": "why?"},
            ],
        }
    )
    assert native["messages"][2] == user(result("1", "t1"), result("2", "t2"))
    assert native["messages"][3]["content"] == "no"


def test_a_refusal_is_what_the_assistant_said() -> None:
    said = {"role": "assistant", "content": [text("Well.")], "refusal": "No."}
    native = WIRE.from_chat({"model": "m", "messages": [{"role": "user", "content": "?"}, said]})
    assert native["messages"][1]["content"] == [text("Well."), text("No.")]


def test_signed_reasoning_goes_back_to_its_maker_and_unsigned_does_not() -> None:
    kept = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    ask = {"role": "user", "content": "?"}
    signed = {**said, "thinking_blocks": [*kept, unsigned]}
    native = WIRE.from_chat({"model": "m", "messages": [ask, signed, ask, said, ask]})
    assert native["messages"][1]["content"] == [*kept, text("yes")]
    assert native["messages"][3]["content"] == "yes"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "content"),
        ({"system": 3}, "system"),
        ({"stream": 1}, "stream"),
        ({"tools": {}}, "tools"),
        ({"thinking": "hard"}, "thinking"),
        ({"stop_sequences": "x"}, "stop_sequences"),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ApiError, match=named) as caught:
        asked(**fields)
    assert caught.value.status == 400


def test_only_what_makes_the_prompt_is_counted() -> None:
    request = asked(tools=[TOOL], stop_sequences=["x"], temperature=1, metadata={"user_id": "u"}, stream=True)
    assert WIRE.count_request(request) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [CHAT_TOOL],
    }
    assert WIRE.count_answer(7) == {"input_tokens": 7}


def test_requests_stay_as_they_are() -> None:
    request = asked(
        messages=[user(text("a")), assistant(text("b"), call()), user(result("r", is_error=True))],
        system=[text("s")],
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    before = json.dumps(request)
    chat = WIRE.to_chat(request)
    chat_before = json.dumps(chat)
    WIRE.from_chat(chat)
    assert json.dumps(request) == before
    assert json.dumps(chat) == chat_before


ODD = JSON | st.sampled_from(["auto", "text", "user", "assistant", "enabled", "tool_use", "base64"])
BLOCK = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "thinking", "x"])
        | ODD,
        "text": ODD,
        "source": ODD
        | st.fixed_dictionaries({"type": st.sampled_from(["base64", "url", "text", "content"])}),
        "content": ODD | st.lists(st.fixed_dictionaries({"type": ODD, "text": ODD}), max_size=2),
        "id": ODD,
        "tool_use_id": ODD,
        "input": ODD,
        "name": ODD,
        "is_error": ODD,
        "thinking": ODD,
        "signature": ODD,
    },
)
ODD_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | ODD,
        "content": ODD | st.lists(BLOCK, max_size=3),
        "tool_calls": ODD | st.lists(st.fixed_dictionaries({"function": ODD, "id": ODD}), max_size=2),
        "tool_call_id": ODD,
        "thinking_blocks": ODD | st.lists(BLOCK, max_size=2),
    },
)
ODD_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "model": ODD,
        "max_tokens": ODD,
        "messages": st.lists(ODD_MESSAGE | ODD, max_size=3) | ODD,
        "system": ODD | st.lists(BLOCK, max_size=2),
        "tools": ODD
        | st.lists(st.fixed_dictionaries({"name": ODD, "input_schema": ODD, "type": ODD}), max_size=2),
        "tool_choice": ODD
        | st.fixed_dictionaries({"type": ODD, "name": ODD, "disable_parallel_tool_use": ODD}),
        "thinking": ODD | st.fixed_dictionaries({"type": ODD, "budget_tokens": ODD}),
        "output_config": ODD | st.fixed_dictionaries({"effort": ODD, "format": ODD}),
        "metadata": ODD,
        "stop_sequences": ODD,
        "stop": ODD,
        "service_tier": ODD,
        "reasoning_effort": ODD,
        "response_format": ODD,
        "context_management": ODD,
        "stream": ODD,
    },
)


def status(call: Any, *args: Any) -> int:
    try:
        call(*args)
    except ApiError as error:
        return error.status
    return 200


@settings(max_examples=300, deadline=None)
@given(ODD_REQUEST)
def test_whatever_is_sent_is_taken_or_refused(request: dict[str, Any]) -> None:
    raw = json.dumps(request).encode()
    assert {status(step, given) for step, given in ((WIRE.parse, raw), (WIRE.to_chat, request))} <= {200, 400}
    assert {status(step, request) for step in (WIRE.from_chat, WIRE.count_request)} <= {200, 400}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_are_sent_are_taken_or_refused(raw: bytes) -> None:
    assert status(WIRE.parse, raw) == 400
