"""What both wires can say is the same after a way there and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.wires.messages import Messages

WIRE = Messages()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SAID = TEXT.filter(bool)
NAME = st.sampled_from(["look_up", "f", "überall", "a-b"])
ID = st.sampled_from(["call_1", "toolu_2", "functions.f:0"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
SCHEMA = OBJECT.filter(bool)


def compact(value: Any) -> str:
    """JSON as it is spelled here: of arguments that are an object, the spelling is not kept."""
    return msgspec.json.encode(value).decode()


def fields(required: dict[str, Any], **optional: Any) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


TEXT_PART = fields({"type": st.just("text"), "text": TEXT})
IMAGE = st.sampled_from(["data:image/png;base64,AA==", "https://x/y.png", "data:image/gif;base64,"]).map(
    lambda url: {"type": "image_url", "image_url": {"url": url}}
)
CONTENT = TEXT | st.lists(TEXT_PART | IMAGE, min_size=1, max_size=3)
READABLE = OBJECT.map(compact)
UNREADABLE = TEXT.filter(lambda text: text.strip() and not text.strip().startswith("{"))
CALL = fields(
    {
        "id": ID,
        "type": st.just("function"),
        "function": fields({"name": NAME, "arguments": READABLE | UNREADABLE | st.just('{"a": ')}),
    }
)
ASKED = fields({"role": st.just("user"), "content": CONTENT})
SPOKEN = fields({"role": st.just("assistant"), "content": TEXT}) | fields(
    {"role": st.just("assistant"), "content": st.lists(TEXT_PART, min_size=2, max_size=3)}
)
CALLED = fields(
    {
        "role": st.just("assistant"),
        "content": SAID | st.none(),
        "tool_calls": st.lists(CALL, min_size=1, max_size=3),
    }
)
RESULT = fields({"role": st.just("tool"), "tool_call_id": ID, "content": CONTENT})
TURN = (
    ASKED.map(lambda one: [one])
    | SPOKEN.map(lambda one: [one])
    | fields({"role": st.just("system"), "content": SAID}).map(lambda one: [one])
    | st.tuples(CALLED, st.lists(RESULT, min_size=1, max_size=3)).map(lambda pair: [pair[0], *pair[1]])
)
FUNCTION = fields({"name": NAME, "parameters": SCHEMA}, description=TEXT, strict=st.just(True))


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    first = draw(
        st.lists(
            fields({"role": st.just("system"), "content": SAID | st.lists(TEXT_PART, min_size=1)}), max_size=1
        )
    )
    turns = [
        {"role": "user", "content": "hi"},
        *(one for turn in draw(st.lists(TURN, max_size=4)) for one in turn),
    ]
    chat = {
        "model": draw(NAME),
        "messages": [*first, *turns],
        "max_completion_tokens": draw(st.integers(1, 99)),
        **draw(
            fields(
                {},
                temperature=st.floats(0, 1),
                top_p=st.floats(0, 1),
                top_k=st.integers(1, 9),
                stream=st.booleans(),
                stop=st.lists(SAID, max_size=3),
                user=SAID,
                service_tier=st.sampled_from(["auto", "default"]),
                reasoning_effort=st.sampled_from(["none", "low", "medium", "high", "xhigh", "max"]),
                response_format=fields(
                    {
                        "type": st.just("json_schema"),
                        "json_schema": fields(
                            {"name": st.just("answer"), "schema": SCHEMA, "strict": st.just(True)}
                        ),
                    }
                ),
                tools=st.lists(fields({"type": st.just("function"), "function": FUNCTION}), max_size=2),
            )
        ),
    }
    if turns[-1]["role"] == "assistant":
        chat |= {"add_generation_prompt": False, "continue_final_message": True}
    choice = draw(
        st.sampled_from([None, "auto", "required", "none", {"type": "function", "function": {"name": "f"}}])
    )
    if choice is not None:
        chat["tool_choice"] = choice
        if choice != "none" and draw(st.booleans()):
            chat["parallel_tool_calls"] = False
    return chat


@settings(max_examples=150, deadline=None)
@given(chats())
def test_a_chat_request_comes_back_as_it_was(chat: dict[str, Any]) -> None:
    native = WIRE.from_chat(chat)
    assert WIRE.parse(json.dumps(native).encode()) == native
    assert WIRE.to_chat(native) == chat


TEXT_BLOCK = fields({"type": st.just("text"), "text": SAID})
THOUGHT = fields(
    {"type": st.just("thinking"), "thinking": SAID, "signature": st.sampled_from(["c2ln", "Zg=="])}
)
HIDDEN = fields({"type": st.just("redacted_thinking"), "data": SAID})
USE = fields({"type": st.just("tool_use"), "id": ID, "name": NAME, "input": OBJECT})


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    thoughts, texts = draw(st.lists(THOUGHT | HIDDEN, max_size=2)), draw(st.lists(TEXT_BLOCK, max_size=1))
    uses = draw(st.lists(USE, max_size=2))
    content = [*thoughts, *texts, *uses] or [{"type": "text", "text": ""}]
    reason = (
        "tool_use" if uses else draw(st.sampled_from(["end_turn", "max_tokens", "refusal", "stop_sequence"]))
    )
    counts = st.integers(0, 99)
    return {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": "END" if reason == "stop_sequence" else None,
        "usage": draw(
            fields(
                {
                    "input_tokens": counts,
                    "output_tokens": counts,
                    "cache_read_input_tokens": counts,
                    "cache_creation_input_tokens": counts,
                },
                output_tokens_details=fields({"thinking_tokens": counts}),
                service_tier=st.sampled_from(["standard", "priority"]),
            )
        ),
    }


@settings(max_examples=150, deadline=None)
@given(answers())
def test_an_answer_comes_back_as_it_was(answer: dict[str, Any]) -> None:
    assert WIRE.answer(WIRE.completion(answer), request={"stop_sequences": ["END"]}) == answer


@settings(max_examples=150, deadline=None)
@given(
    TEXT | st.none(), TEXT, st.lists(CALL, max_size=2), st.sampled_from(["stop", "length", "content_filter"])
)
def test_a_completion_comes_back_as_it_was(
    content: str | None, thought: str, calls: list[Any], finish: str
) -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content or ("" if not calls and not thought else None),
    }
    message |= {"reasoning_content": thought} if thought else {}
    message |= {"tool_calls": calls} if calls else {}
    reason = "tool_calls" if calls and finish == "stop" else finish
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    counts = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    details = {"prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}}
    completion = {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": counts | details,
    }
    assert WIRE.completion(WIRE.answer(completion, request={})) == completion
