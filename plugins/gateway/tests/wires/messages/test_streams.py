from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._sse import SseParser
from lightning_plugin_gateway.wires.messages import Messages

WIRE = Messages()
REQUEST = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
EAGER = {**REQUEST, "tools": [{"name": "f", "input_schema": {}, "eager_input_streaming": True}]}
EVENT = TypeAdapter(RawMessageStreamEvent)
RECORDED = (Path(__file__).parent / "recorded.sse").read_bytes()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return {"id": "chatcmpl-7", "created": 0, "model": "m", "choices": choices, **fields}


def part(index: int, arguments: str = "", **fields: Any) -> dict[str, Any]:
    function = {name: fields.pop(name) for name in ("name",) if name in fields}
    return {"tool_calls": [{"index": index, **fields, "function": {**function, "arguments": arguments}}]}


def parse(data: bytes) -> list[dict[str, Any]]:
    """Events, each of a form that the SDK's own types take without a change, and named as its data is."""
    events = []
    for block in data.decode().split("\n\n")[:-1]:
        name, _, body = block.partition("\n")
        event = json.loads(body.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            assert EVENT.validate_python(event).to_dict(exclude_unset=True) == event
        events.append(event)
    return events


def written(*chunks: dict[str, Any], request: dict[str, Any] = REQUEST) -> list[dict[str, Any]]:
    writer = WIRE.events(request)
    return parse(b"".join([*map(writer.add, chunks), writer.end()]))


def spoken(events: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Events in short, without the frame."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        if event["type"] == "content_block_start":
            found.append(("start", event["index"], event["content_block"]["type"]))
        elif event["type"] == "content_block_delta":
            kind, *said = event["delta"].values()
            found.append((kind, event["index"], *said))
        elif event["type"] == "content_block_stop":
            found.append(("stop", event["index"]))
    return found


def message(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the SDK makes of events."""
    snapshot, texts = None, {}
    for event in events:
        if event["type"] != "ping":
            snapshot = accumulate_event(
                event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=texts
            )
    assert snapshot is not None
    found = snapshot.to_dict(exclude_unset=True)
    assert found.pop("stop_details", None) is None
    return found


def well_formed(events: Sequence[dict[str, Any]]) -> None:
    """One block at a time, in order, between one start and one stop."""
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [kinds.count(kind) for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    opened = None
    count = 0
    for event in events:
        if event["type"] == "content_block_start":
            assert (opened, event["index"]) == (None, count)
            opened, count = event["index"], count + 1
        elif event["type"] == "content_block_delta":
            assert event["index"] == opened
        elif event["type"] == "content_block_stop":
            assert event["index"] == opened
            opened = None
    assert opened is None


def test_a_text_is_told_as_it_comes() -> None:
    writer = WIRE.events(REQUEST)
    (start, ping) = parse(writer.add(chunk({"role": "assistant", "content": ""})))
    assert start["message"]["id"] == "msg_7"
    assert start["message"]["usage"]["input_tokens"] == 0
    assert ping == {"type": "ping"}
    assert spoken(parse(writer.add(chunk({"content": " a"})))) == [
        ("start", 0, "text"),
        ("text_delta", 0, " a"),
    ]
    assert spoken(parse(writer.add(chunk({"content": "b\n"})))) == [("text_delta", 0, "b\n")]
    assert writer.add(chunk({}, "stop")) == b""
    assert writer.add(chunk(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2})) == b""
    stop, delta, end = parse(writer.end())
    assert stop == {"type": "content_block_stop", "index": 0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (5, 2)
    assert end == {"type": "message_stop"}


def test_the_prompts_tokens_are_told_at_once_if_they_are_known() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 0}
    start, *_ = written(chunk({"role": "assistant"}, usage=usage), chunk({"content": "a"}, "stop"))
    assert start["message"]["usage"]["input_tokens"] == 5


def test_reasoning_ends_with_a_signature_before_the_text() -> None:
    events = written(
        chunk({"reasoning_content": "h"}), chunk({"reasoning": "m"}), chunk({"content": "so"}, "stop")
    )
    well_formed(events)
    signed = message(events)["content"][0]["signature"]
    assert signed
    assert spoken(events) == [
        ("start", 0, "thinking"),
        ("thinking_delta", 0, "h"),
        ("thinking_delta", 0, "m"),
        ("signature_delta", 0, signed),
        ("stop", 0),
        ("start", 1, "text"),
        ("text_delta", 1, "so"),
        ("stop", 1),
    ]


def test_another_servers_signature_is_passed_on() -> None:
    events = written(
        chunk({"reasoning_content": "hm"}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]}),
        chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "so", "signature": "Zg=="}]}),
        chunk({"content": "yes"}, "stop"),
    )
    well_formed(events)
    assert message(events)["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "so", "signature": "Zg=="},
        {"type": "text", "text": "yes"},
    ]


def test_fragments_of_parallel_calls_become_blocks_of_their_own() -> None:
    events = written(
        chunk({"content": "calling "}),
        chunk(part(0, id="c0", name="f")),
        chunk(part(0, '{"a"')),
        chunk(part(1, '{"b":', id="c1", name="g")),
        chunk(part(0, ": 1}")),
        chunk(part(1, "2}")),
        chunk({}, "tool_calls"),
    )
    well_formed(events)
    assert spoken(events)[3:] == [
        ("start", 1, "tool_use"),
        ("input_json_delta", 1, '{"a": 1}'),
        ("stop", 1),
        ("start", 2, "tool_use"),
        ("input_json_delta", 2, '{"b":2}'),
        ("stop", 2),
    ]
    found = message(events)
    assert [(block["id"], block["name"], block["input"]) for block in found["content"][1:]] == [
        ("c0", "f", {"a": 1}),
        ("c1", "g", {"b": 2}),
    ]
    assert found["stop_reason"] == "tool_use"


def test_pings_tell_that_a_call_is_being_written() -> None:
    writer = WIRE.events(REQUEST)
    writer.add(chunk(part(0, '{"a": ', name="f")))
    assert parse(writer.add(chunk(part(0, "1}")))) == [{"type": "ping"}]


def test_a_name_may_come_after_the_arguments() -> None:
    for request in (REQUEST, EAGER):
        events = written(chunk(part(0, '{"a":')), chunk(part(0, "1}", id="c", name="f")), request=request)
        well_formed(events)
        assert message(events)["content"] == [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]


def test_a_name_may_come_in_pieces() -> None:
    events = written(chunk(part(0, name="look")), chunk(part(0, name="_up")), chunk(part(0, "{}")))
    assert message(events)["content"][0]["name"] == "look_up"


@pytest.mark.parametrize("arguments", ['{"a": ', "no", "[1]", '{"_raw_arguments": "x"}', "{} {}"])
def test_arguments_that_are_no_object_come_as_one(arguments: str) -> None:
    pieces = [chunk(part(0, piece)) for piece in arguments]
    events = written(chunk(part(0, id="c", name="f")), *pieces, chunk({}, "tool_calls"))
    assert message(events)["content"][0]["input"] == {"_raw_arguments": arguments}


@pytest.mark.parametrize("arguments", ["", " \n"])
def test_no_arguments_come_as_an_empty_object(arguments: str) -> None:
    events = written(chunk(part(0, arguments, id="c", name="f")), chunk({}, "tool_calls"))
    assert ("input_json_delta", 0, "{}") in spoken(events)


def test_a_client_may_take_arguments_as_they_are_written() -> None:
    writer = WIRE.events(EAGER)
    writer.add(chunk({"content": "a"}))
    assert parse(writer.add(chunk(part(0, id="c", name="f")))) == [{"type": "ping"}]
    assert spoken(parse(writer.add(chunk(part(0, '{"a": '))))) == [
        ("stop", 0),
        ("start", 1, "tool_use"),
        ("input_json_delta", 1, '{"a": '),
    ]
    writer.add(chunk({"content": "b"}))
    writer.add(chunk(part(1, "{}", id="d", name="g")))
    assert spoken(parse(writer.add(chunk(part(0, "[oops"))))) == [("input_json_delta", 1, "[oops")]
    assert spoken(parse(writer.end())) == [
        ("stop", 1),
        ("start", 2, "text"),
        ("text_delta", 2, "b"),
        ("stop", 2),
        ("start", 3, "tool_use"),
        ("input_json_delta", 3, "{}"),
        ("stop", 3),
    ]


def test_text_and_reasoning_may_take_turns() -> None:
    events = written(chunk({"content": "a"}), chunk({"reasoning": "b"}), chunk({"content": "c"}))
    well_formed(events)
    assert [block["type"] for block in message(events)["content"]] == ["text", "thinking", "text"]


def test_reasoning_without_its_text_is_kept_block_by_block() -> None:
    request = {**REQUEST, "thinking": {"type": "adaptive", "display": "omitted"}}
    events = written(
        chunk({"reasoning": "a"}), chunk({"content": "b"}), chunk({"reasoning": "c"}, "stop"), request=request
    )
    assert not any(event.get("delta", {}).get("thinking") for event in events)
    assert read(events)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "b",
        "reasoning_content": "a\n\nc",
    }
    turns = [*REQUEST["messages"], {"role": "assistant", "content": message(events)["content"]}]
    assert WIRE.to_chat({**REQUEST, "messages": turns})["messages"][1]["reasoning_content"] == "a\n\nc"


def test_an_empty_stream_is_an_empty_text() -> None:
    for chunks in ([], [chunk({"role": "assistant"}, "stop")]):
        events = written(*chunks)
        well_formed(events)
        found = message(events)
        assert found["content"] == [{"type": "text", "text": ""}]
        assert found["stop_reason"] == "end_turn"


def test_a_stream_whose_server_gave_up_is_a_failure_at_once() -> None:
    writer = WIRE.events(REQUEST)
    writer.add(chunk({"content": "half"}))
    with pytest.raises(ApiError, match="abort") as caught:
        writer.add(chunk({}, "abort"))
    assert caught.value.status == 502


def test_a_failed_stream_ends_with_an_error() -> None:
    body = WIRE.error_event(ApiError(502, "gone", fault="upstream_error")).decode()
    assert body.startswith("event: error\ndata: ")
    assert body.endswith("\n\n")
    assert json.loads(body.split("data: ")[1]) == {
        "type": "error",
        "error": {"type": "api_error", "message": "gone"},
    }


def test_other_choices_are_left_out() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "length"}]}
    found = message(written(chunk({"content": "a"}), other, chunk({}, "stop")))
    assert found["content"] == [{"type": "text", "text": "a"}]
    assert found["stop_reason"] == "end_turn"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
JSON_TEXT = st.dictionaries(
    TEXT, st.integers() | TEXT | st.lists(st.booleans(), max_size=2), max_size=3
).flatmap(
    lambda given: st.sampled_from([json.dumps(given), json.dumps(given, indent=1), json.dumps(given)[:-1]])
)
CALL = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["c0", "c1", None]),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["f", "g"]), "arguments": JSON_TEXT | TEXT}
        ),
    }
)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)},
    optional={"prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 9)})},
)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    answered: dict[str, Any] = {"role": "assistant", "content": draw(TEXT | st.none())}
    if thought := draw(TEXT):
        answered["reasoning_content"] = thought
    if calls := draw(st.lists(CALL, max_size=3)):
        answered["tool_calls"] = calls
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter", None]))
    choice = {
        "index": 0,
        "message": answered,
        "finish_reason": finish,
        "stop_reason": draw(st.sampled_from(["S", None])),
    }
    found = {"id": "chatcmpl-7", "created": 0, "model": "m", "choices": [choice]}
    return {**found, "usage": usage} if (usage := draw(USAGE | st.none())) else found


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A completion, and chunks that it may have come in: pieces of any size, calls interleaved."""
    whole = draw(completions())
    (choice,) = whole["choices"]
    answered = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    deltas += [{"reasoning_content": piece} for piece in pieces(draw, answered.get("reasoning_content", ""))]
    deltas += [{"content": piece} for piece in pieces(draw, answered["content"] or "")]
    queues = []
    for index, called in enumerate(answered.get("tool_calls", [])):
        name = {"id": called["id"], "type": "function", "name": called["function"]["name"]}
        queues.append(
            [
                part(index, **name),
                *(part(index, one) for one in pieces(draw, called["function"]["arguments"])),
            ]
        )
    while queues:
        queue = draw(st.sampled_from(queues))
        deltas.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    chunks = [chunk(delta) for delta in deltas]
    chunks.append(chunk({}, choice["finish_reason"]))
    chunks[-1]["choices"][0]["stop_reason"] = choice["stop_reason"]
    if usage := whole.get("usage"):
        chunks.append(chunk(choices=[], usage=usage))
    return whole, chunks


@settings(max_examples=300, deadline=None)
@given(streams(), st.sampled_from([None, "omitted"]))
def test_a_stream_says_what_the_whole_answer_says(
    stream: tuple[dict[str, Any], list[dict[str, Any]]], display: str | None
) -> None:
    whole, chunks = stream
    request = {**REQUEST, "stop_sequences": ["S"], "thinking": {"type": "adaptive", "display": display}}
    events = written(*chunks, request=request)
    well_formed(events)
    assert message(events) == WIRE.answer(whole, request=request)


@settings(max_examples=200, deadline=None)
@given(streams())
def test_a_client_that_takes_arguments_early_gets_each_character(
    stream: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    whole, chunks = stream
    events = written(*chunks, request=EAGER)
    well_formed(events)
    calls = whole["choices"][0]["message"].get("tool_calls", [])
    told: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            told[event["index"]] = told.get(event["index"], "") + event["delta"]["partial_json"]
    assert len(told) == len(calls)
    inputs = [block["input"] for block in WIRE.answer(whole, request=EAGER)["content"] if "input" in block]
    early = 0
    for call, given_ in zip(calls, inputs, strict=True):
        raw = call["function"]["arguments"]
        early += raw in told.values() and call["function"]["name"] == "f"
        assert raw in told.values() or given_ in [
            json.loads(one) for one in told.values() if meant(one) != one
        ]
    if any(call["function"]["name"] == "f" and call["function"]["arguments"] for call in calls[:1]):
        assert early


def read(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The completion of the chunks that events are read as."""
    reader, fold = WIRE.chunks(), StreamFold()
    for event in events:
        for one in reader.add(event):
            fold.add(one)
    assert fold.finished
    return fold.completion()


@settings(max_examples=200, deadline=None)
@given(completions(), st.data())
def test_events_are_read_as_the_completion_that_they_tell(whole: dict[str, Any], data: st.DataObject) -> None:
    answer = WIRE.answer(whole, request=REQUEST)
    events = []
    for event in written(
        *[
            chunk({name: whole["choices"][0]["message"].get(name)})
            for name in ("reasoning_content", "content")
        ],
        *[
            chunk({"tool_calls": [{"index": index, **called}]})
            for index, called in enumerate(whole["choices"][0]["message"].get("tool_calls", []))
        ],
        chunk({}, whole["choices"][0]["finish_reason"], usage=whole.get("usage")),
    ):
        delta = event.get("delta", {})
        name = next((name for name in ("text", "partial_json", "thinking") if name in delta), "")
        cut = [piece for piece in pieces(data.draw, delta[name]) if piece] if name else []
        events += [{**event, "delta": {**delta, name: piece}} for piece in cut] or [event]
    folded, direct = read(events), WIRE.completion(answer)
    calls = [called["function"] for called in folded["choices"][0]["message"].get("tool_calls", [])]
    expected = [called["function"] for called in direct["choices"][0]["message"].get("tool_calls", [])]
    assert [one["name"] for one in calls] == [one["name"] for one in expected]
    for one, other in zip(calls, expected, strict=True):
        assert meant(one["arguments"]) == meant(other["arguments"])
        one["arguments"] = other["arguments"]
    for name in ("message", "finish_reason"):
        assert folded["choices"][0][name] == direct["choices"][0][name]
    assert (folded["id"], folded["model"]) == (direct["id"], direct["model"])
    assert folded["usage"] == direct["usage"]


def meant(arguments: str) -> Any:
    """What arguments say, however it is spelled."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def test_arguments_are_read_to_the_byte() -> None:
    reader = WIRE.chunks()
    reader.add({"type": "message_start", "message": {}})
    begun = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    (first,) = reader.add({"type": "content_block_start", "index": 0, "content_block": begun})
    assert first["choices"][0]["delta"]["tool_calls"][0]["id"] == "t"
    told = []
    for piece in ("", '{"', 'a": ', " 1}\n"):
        delta = {"type": "input_json_delta", "partial_json": piece}
        told += reader.add({"type": "content_block_delta", "index": 0, "delta": delta})
    written_ = [one["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for one in told]
    assert "".join(written_) == '{"a":  1}\n'
    assert len(written_) == 2  # it is told as soon as it cannot stand for other arguments
    assert reader.add({"type": "content_block_stop", "index": 0}) == []


@pytest.mark.parametrize(("given_", "arguments"), [({}, "{}"), ({"a": 1}, '{"a":1}')])
def test_a_call_without_pieces_has_the_arguments_of_its_beginning(given_: Any, arguments: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": given_}
    events = [
        {"type": "message_start", "message": {"id": "msg_1"}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ]
    for told in (events, [event for event in events if event["type"] != "content_block_stop"]):
        (choice,) = read(told)["choices"]
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == arguments
        assert choice["finish_reason"] == "tool_calls"


def test_signatures_come_at_the_end_of_their_block() -> None:
    reader = WIRE.chunks()
    block = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "c2ln"},
    ]
    chunks = reader.add({"type": "content_block_start", "content_block": block})
    for delta in deltas:
        chunks += reader.add({"type": "content_block_delta", "delta": delta})
    assert [one["choices"][0]["delta"] for one in chunks] == [{"reasoning_content": "hm"}]
    (last,) = reader.add({"type": "content_block_stop"})
    kept = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]
    assert last["choices"][0]["delta"] == {"thinking_blocks": kept}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "overloaded_error", "message": "busy"}, 503),
        ({"type": "rate_limit_error", "message": "slow down"}, 429),
        ({"type": "authentication_error", "message": "no"}, 502),
        ({"type": "new_error", "message": "?"}, 502),
        (None, 502),
    ],
)
def test_an_error_event_is_a_failure(error: Any, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.chunks().add({"type": "error", "error": error})
    assert (caught.value.status, caught.value.fault) == (status, "upstream_error")


def test_what_is_no_event_is_a_failure_and_what_is_new_is_left_out() -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.chunks().add({"choices": []})
    assert caught.value.fault == "invalid_answer"
    reader = WIRE.chunks()
    assert reader.add({"type": "ping"}) == []
    assert reader.add({"type": "something_new", "delta": 3}) == []
    assert reader.add({"type": "content_block_start", "content_block": {"type": "server_tool_use"}}) == []
    assert (
        reader.add(
            {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}
        )
        == []
    )


ODD = st.none() | st.integers() | TEXT | st.lists(st.integers(), max_size=1)
ODD_DELTA = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text_delta", "thinking_delta", "input_json_delta", "signature_delta"])
        | ODD,
        "text": ODD,
        "thinking": ODD,
        "partial_json": ODD,
        "signature": ODD,
        "stop_reason": ODD,
    },
)
ODD_BLOCK = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use"]) | ODD,
        "text": ODD,
        "input": ODD,
        "id": ODD,
        "name": ODD,
        "data": ODD,
    },
)
ODD_EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                              "message_delta", "message_stop"])},
    optional={"message": ODD, "content_block": ODD_BLOCK | ODD, "delta": ODD_DELTA | ODD, "usage": ODD},
)  # fmt: skip
ODD_CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "id": ODD,
        "usage": ODD | st.dictionaries(st.sampled_from(["prompt_tokens", "prompt_tokens_details"]), ODD),
        "choices": ODD
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "delta": ODD
                    | st.fixed_dictionaries(
                        {},
                        optional={
                            "content": ODD,
                            "reasoning": ODD,
                            "tool_calls": ODD
                            | st.lists(st.fixed_dictionaries({"index": ODD, "function": ODD}), max_size=2),
                            "thinking_blocks": ODD | st.lists(ODD_BLOCK, max_size=2),
                        },
                    ),
                    "finish_reason": ODD,
                    "stop_reason": ODD,
                },
            ),
            max_size=2,
        ),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ODD_EVENT, max_size=8), st.lists(ODD_CHUNK, max_size=6))
def test_whatever_an_upstream_streams_is_survived(events: list[Any], chunks: list[Any]) -> None:
    reader = WIRE.chunks()
    for event in events:
        reader.add(event)
    well_formed(written(*chunks))


def read_bytes(cut: Sequence[bytes]) -> list[dict[str, Any]]:
    parser, reader = SseParser(), WIRE.chunks()
    found = [event for data in cut for event in parser.feed(data)]
    if (last := parser.close()) is not None:
        found.append(last)
    return [one for event in found for one in reader.add(json.loads(event))]


def test_a_recorded_stream_is_read_the_same_wherever_it_is_cut() -> None:
    whole = read_bytes([RECORDED])
    assert len(whole) > 15
    for place in range(len(RECORDED) + 1):
        assert read_bytes([RECORDED[:place], RECORDED[place:]]) == whole
    assert read_bytes([bytes([byte]) for byte in RECORDED]) == whole
    assert read_bytes([RECORDED.replace(b"\n", b"\r\n")]) == whole


def test_a_recorded_stream_is_the_completion_of_its_message() -> None:
    parser = SseParser()
    events = [json.loads(event) for event in parser.feed(RECORDED)]
    folded, direct = read(events), WIRE.completion(message(events))
    for call in folded["choices"][0]["message"]["tool_calls"]:
        call["function"]["arguments"] = json.dumps(
            json.loads(call["function"]["arguments"]), ensure_ascii=False, separators=(",", ":")
        )
    assert folded["choices"][0]["message"] == direct["choices"][0]["message"]
    assert folded["usage"] == direct["usage"]
    assert folded["choices"][0]["finish_reason"] == "tool_calls"
