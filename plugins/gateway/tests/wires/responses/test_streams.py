from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._fold import StreamFold
from lightning_plugin_gateway._sse import SseParser
from lightning_plugin_gateway.wires.responses import Responses

WIRE = Responses()
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LOGPROBS = "message.output_text.logprobs"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = TEXT.filter(bool)

Delta = dict[str, Any]
RECORDED = (Path(__file__).parent / "recorded.sse").read_bytes()


def asked(**fields: Any) -> dict[str, Any]:
    return WIRE.parse(json.dumps({"model": "m", "input": "hi", "stream": True, **fields}).encode())


def chunk(delta: Delta | None = None, *, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "served"}
    if delta is None:
        return {**frame, "choices": [], **fields}
    return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **fields}]}


def call(index: int, *, arguments: str = "", **fields: Any) -> Delta:
    function = {"arguments": arguments, **{key: fields.pop(key) for key in ("name",) if key in fields}}
    return {"tool_calls": [{"index": index, "function": function, **fields}]}


def entry(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -1.0, "bytes": list(token.encode()), "top_logprobs": []}


def written(chunks: list[dict[str, Any]], request: dict[str, Any] | None = None) -> bytes:
    writer = WIRE.events(request or asked())
    return b"".join([*map(writer.add, chunks), writer.end()])


def events_of(raw: bytes) -> list[dict[str, Any]]:
    """Events as they were sent, each checked by the SDK's own types."""
    events = []
    for event in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        read = EVENT.validate_python(events[-1])
        assert name == f"event: {read.type}"
    return events


def read(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    reader = WIRE.chunks()
    return [made for event in events for made in reader.add(event)]


def folded(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    fold = StreamFold()
    for made in chunks:
        fold.add(made)
    return fold.completion()


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Output as the events tell it piece by piece, which must agree with what each of them tells as a whole."""
    output: list[dict[str, Any]] = []
    done: set[int] = set()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    for event in events[2:-1]:
        kind, place = event["type"], event["output_index"]
        if kind == "response.output_item.added":
            assert place == len(output)
            output.append(event["item"])
            continue
        item = output[place]
        assert place not in done
        if kind == "response.output_item.done":
            done.add(place)
            assert item["id"] == event["item"]["id"]
            if item["type"] == "function_call":
                assert item == {**event["item"], "status": "in_progress"}
            else:
                texts = [part.get("text", part.get("refusal")) for part in event["item"]["content"]]
                assert texts == [part.get("text", part.get("refusal")) for part in item["content"]]
            output[place] = event["item"]
            continue
        assert event["item_id"] == item["id"]
        if kind == "response.function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "response.function_call_arguments.done":
            assert event["arguments"] == item["arguments"]
            assert event["name"] == item["name"]
        elif kind == "response.content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
        else:
            assert event["content_index"] == len(item["content"]) - 1
            part = item["content"][-1]
            field = "refusal" if part["type"] == "refusal" else "text"
            if kind.endswith(".delta"):
                assert event["delta"]
                part[field] += event["delta"]
            elif kind == "response.content_part.done":
                assert event["part"][field] == part[field]
            elif kind.endswith(".done"):
                assert event[field] == part[field]
    assert done == set(range(len(output)))
    assert events[-1]["response"]["output"] == output
    return output


def test_a_stream_tells_of_each_item_from_beginning_to_end() -> None:
    raw = written(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"reasoning_content": "h"}),
            chunk({"reasoning": "m"}),
            chunk({"content": " a"}),
            chunk({"content": "\n"}),
            chunk(call(0, id="c1", type="function", name="f")),
            chunk(call(0, arguments='{"a"')),
            chunk(call(0, arguments=":1}")),
            chunk({}, finish="tool_calls"),
            chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        ]
    )
    events = events_of(raw)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    reasoning, message, function = put_together(events)
    assert (reasoning["id"], message["id"], function["id"]) == ("rs_1", "msg_1", "fc_1")
    assert message["content"][0]["text"] == " a\n"
    assert (function["call_id"], function["name"], function["arguments"]) == ("c1", "f", '{"a":1}')
    assert events[-1]["response"]["usage"]["total_tokens"] == 3
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["id"] == events[-1]["response"]["id"] == "resp_1"


def test_each_piece_is_sent_as_soon_as_it_comes() -> None:
    writer = WIRE.events(asked())
    assert b"response.created" in writer.add(chunk({"role": "assistant", "content": ""}))
    assert b'"delta":"a"' in writer.add(chunk({"content": "a"}))
    writer.add(chunk(call(0, id="c", name="f", arguments="{")))
    assert b'"delta":"}"' in writer.add(chunk(call(0, arguments="}")))
    assert writer.add(chunk({}, finish="stop")) == b""
    assert b"response.completed" in writer.end()


@pytest.mark.parametrize(
    ("finish", "last", "status"),
    [
        ("stop", "response.completed", "completed"),
        (None, "response.completed", "completed"),
        ("length", "response.incomplete", "incomplete"),
        ("content_filter", "response.incomplete", "incomplete"),
        ("error", "response.failed", "incomplete"),
    ],
)
def test_the_last_event_tells_how_it_ended(finish: str | None, last: str, status: str) -> None:
    chunks = [chunk({"reasoning_content": "r"}), chunk({"content": "a"}, finish=finish)]
    events = events_of(written(chunks))
    assert events[-1]["type"] == last
    assert events[-1]["response"]["usage"] is None
    assert [item["status"] for item in put_together(events)] == ["completed", status]


def test_fragments_of_parallel_calls_may_interleave() -> None:
    raw = written(
        [
            chunk(call(0, id="c0", name="f")),
            chunk(call(1, id="c1", name="g")),
            chunk(call(1, arguments="1")),
            chunk(call(0, arguments="a")),
            chunk(
                {"tool_calls": [*call(1, arguments="2")["tool_calls"], *call(0, arguments="b")["tool_calls"]]}
            ),
            chunk({}, finish="tool_calls"),
        ]
    )
    output = put_together(events_of(raw))
    assert [(item["call_id"], item["arguments"]) for item in output] == [("c0", "ab"), ("c1", "12")]


def test_a_name_or_id_may_come_in_pieces_late_or_never() -> None:
    raw = written(
        [
            chunk(call(0, arguments="{", id="c0")),
            chunk(call(0, name="f")),
            chunk(call(0, arguments="}")),
            chunk(call(1, name="long_", id="c1")),
            chunk(call(1, name="name")),
            chunk(call(2, name="late", arguments="1")),
            chunk(call(2, id="c2")),
            chunk(call(3, name="never", arguments="2")),
            chunk({}, finish="tool_calls"),
        ]
    )
    output = put_together(events_of(raw))
    found = {item["call_id"]: (item["name"], item["arguments"]) for item in output}
    assert found == {
        "c0": ("f", "{}"),
        "c1": ("long_name", ""),
        "c2": ("late", "1"),
        "call_1_3": ("never", "2"),
    }


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    raw = written(
        [
            chunk({"content": "a"}),
            chunk(call(0, id="c", name="f", arguments="{")),
            chunk({"content": "b"}),
            chunk(call(0, arguments="}")),
            chunk({"reasoning_content": "r"}),
            chunk({"content": "c"}, finish="stop"),
        ]
    )
    events = events_of(raw)
    output = put_together(events)
    assert [item["id"] for item in output] == ["msg_1", "fc_1", "msg_1_1", "rs_1", "msg_1_2"]
    message = folded(read(events))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("abc", "r")


def test_a_refusal_is_streamed_after_what_was_said() -> None:
    raw = written(
        [chunk({"content": "well"}), chunk({"refusal": "n"}), chunk({"refusal": "o"}, finish="stop")]
    )
    (message,) = put_together(events_of(raw))
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    assert message["content"][1]["refusal"] == "no"


def test_annotations_are_told_and_kept() -> None:
    link = {"start_index": 0, "end_index": 1, "title": "t", "url": "https://host"}
    annotations = [{"type": "url_citation", "url_citation": link}]
    chunks = [{"content": "a"}, {"annotations": annotations}, {"refusal": "no"}, {"content": "b"}]
    events = events_of(written([chunk(delta) for delta in chunks]))
    (message,) = put_together(events)
    said, _, more = message["content"]
    assert said["annotations"] == [{"type": "url_citation", **link}]
    assert more["annotations"] == []
    assert [made["choices"][0]["delta"] for made in read(events)].count({"annotations": annotations}) == 1


def test_a_call_keeps_the_id_that_it_began_with() -> None:
    pieces = [call(0, id="c", name="f", arguments="{"), call(0, id="other", arguments="}")]
    (item,) = put_together(events_of(written([chunk(piece) for piece in pieces])))
    assert (item["call_id"], item["arguments"]) == ("c", "{}")


def test_places_of_a_stream_with_gaps_are_not_taken_for_those_of_its_last_event() -> None:
    place = {"output_index": 4, "content_index": 0}
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    events = [
        {"type": "response.output_text.delta", "delta": "a", **place},
        {"type": "response.output_item.done", "output_index": 4, "item": message},
        {"type": "response.completed", "response": {"output": [message]}},
    ]
    assert folded(read(events))["choices"][0]["message"]["content"] == "a"


def test_an_empty_answer_is_an_empty_message() -> None:
    (message,) = put_together(
        events_of(written([chunk({"role": "assistant", "content": ""}, finish="stop")]))
    )
    assert message["content"][0]["text"] == ""
    assert put_together(events_of(written([]))) == []


def test_logprobs_are_streamed_only_if_asked_for() -> None:
    chunks = [
        chunk({"reasoning_content": "a"}, logprobs={"content": [entry("a")]}),
        chunk({"content": "ab"}, logprobs={"content": [entry("a"), entry("b")]}),
        chunk({"content": ""}, finish="stop", logprobs={"content": [entry("<end>")]}),
    ]
    for fields, tokens in (({}, []), ({"include": [LOGPROBS]}, ["a", "b"])):
        events = events_of(written(chunks, asked(**fields)))
        told = {
            event["type"]: [one["token"] for one in event["logprobs"]]
            for event in events
            if "logprobs" in event
        }
        assert told == {"response.output_text.delta": tokens, "response.output_text.done": tokens}
        part = put_together(events)[-1]["content"][0]
        assert [one["token"] for one in part["logprobs"]] == tokens


def test_escapes_of_arguments_are_left_alone_wherever_they_are_split() -> None:
    arguments = '{"a": "\\ud83d\\ude00 \\u00e9 😀\\n"}'
    for at in range(len(arguments) + 1):
        pieces = [
            chunk(call(0, id="c", name="f", arguments=arguments[:at])),
            chunk(call(0, arguments=arguments[at:])),
        ]
        (item,) = put_together(events_of(written([*pieces, chunk({}, finish="tool_calls")])))
        assert item["arguments"] == arguments


def test_other_choices_are_not_told() -> None:
    other = {**chunk({"content": "b"})["choices"][0], "index": 1}
    both = chunk({"content": "a"}, finish="stop")
    both["choices"].append(other)
    (message,) = put_together(events_of(written([both])))
    assert message["content"][0]["text"] == "a"


def test_an_error_event_is_last_and_has_both_forms() -> None:
    failure = ApiError(502, "the upstream failed", fault="upstream_error")
    raw = WIRE.error_event(failure)
    event = json.loads(raw.split(b"data: ")[1])
    assert raw.startswith(b"event: error\n")
    assert EVENT.validate_python(event).message == "the upstream failed"
    assert event["error"]["message"] == "the upstream failed"
    with pytest.raises(ApiError, match="the upstream failed"):
        WIRE.chunks().add(event)


@st.composite
def streams(draw: st.DrawFn, *, tokens_whole: bool = False) -> list[dict[str, Any]]:
    """An answer as a server may stream it: cut anywhere, calls interleaved, names late."""

    def pieces(text: str) -> list[str]:
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)))
        return [text[low:high] for low, high in pairwise([0, *cuts, len(text)])]

    deltas: list[Delta] = [{"role": "assistant", "content": draw(st.sampled_from(["", None]))}]
    deltas += [{"reasoning_content": piece} for piece in pieces(draw(TEXT))]
    tokens = draw(st.lists(SAID, max_size=4))
    logprobs: dict[int, Any] = {}
    for token in tokens:
        logprobs[len(deltas)] = {"content": [entry(token)]}
        deltas += [{"content": token}] if tokens_whole else [{"content": piece} for piece in pieces(token)]
    deltas += [{"refusal": piece} for piece in pieces(draw(st.just("") | SAID))]
    queues = []
    for index in range(draw(st.integers(0, 3))):
        arguments = [call(index, arguments=piece) for piece in pieces(draw(TEXT))]
        head = call(index, id=f"c{index}", type="function", name=draw(SAID))
        deltas.append(head)
        queues.append(arguments)
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        deltas.append(queue.pop(0))
    chunks = [chunk(delta, logprobs=logprobs.get(place)) for place, delta in enumerate(deltas)]
    finish = draw(st.sampled_from(["tool_calls" if "tool_calls" in deltas[-1] else "stop", "length"]))
    chunks.append(chunk({}, finish=finish))
    if draw(st.booleans()):
        chunks.append(chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}))
    return chunks


@settings(max_examples=100, deadline=None)
@given(chunks=streams())
def test_a_stream_ends_with_the_answer_that_would_have_been_given_whole(chunks: list[dict[str, Any]]) -> None:
    request = asked(include=[LOGPROBS])
    events = events_of(written(chunks, request))
    put_together(events)
    assert events[-1]["response"] == WIRE.answer(folded(chunks), request=request)


@settings(max_examples=100, deadline=None)
@given(chunks=streams(tokens_whole=True))
def test_a_stream_read_back_says_what_its_last_event_says(chunks: list[dict[str, Any]]) -> None:
    events = events_of(written(chunks, asked(include=[LOGPROBS])))
    assert folded(read(events)) == WIRE.completion(events[-1]["response"])
    alone = folded(read([events[0], events[-1]]))
    assert alone == WIRE.completion(events[-1]["response"])
    wholes = [event for event in events if not event["type"].endswith(".delta")]
    assert folded(read(wholes)) == WIRE.completion(events[-1]["response"])


@settings(max_examples=60, deadline=None)
@given(chunks=streams(), cuts=st.sets(st.integers(0, 9_999), max_size=9))
def test_a_stream_cut_anywhere_reads_the_same(chunks: list[dict[str, Any]], cuts: set[int]) -> None:
    raw = written(chunks)
    bounds = [0, *sorted(cut % len(raw) for cut in cuts), len(raw)]
    parser = SseParser()
    events = [json.loads(event) for low, high in pairwise(bounds) for event in parser.feed(raw[low:high])]
    assert read(events) == read(events_of(raw))


def test_a_recorded_stream_cut_at_every_byte_reads_the_same() -> None:
    expected = [line[6:] for line in RECORDED.splitlines() if line.startswith(b"data: ")]
    assert folded(read([json.loads(event) for event in expected])) == {
        "id": "chatcmpl-abc",
        "created": 1700000000,
        "model": "m",
        "object": "chat.completion",
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 8,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "é𝄞 ",
                    "reasoning_content": "**One**\n\ntwo",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a":"é"}'},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ],
    }
    for end in (b"\n", b"\r\n", b"\r"):
        raw = RECORDED.replace(b"\n", end)
        for at in range(len(raw) + 1):
            parser = SseParser()
            events = [event for part in (raw[:at], raw[at:]) for event in parser.feed(part)]
            last = parser.close()
            assert [*events, last] == expected


@pytest.mark.parametrize(
    ("event", "status", "told"),
    [
        ({}, 502, "None"),
        ({"type": 3}, 502, "3"),
        ({"type": "response.output_text.delta", "delta": 3}, 502, "`delta`"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}, 429, "slow down"),
        ({"type": "error", "error": {"code": "invalid_prompt", "message": "bad"}}, 400, "bad"),
        ({"type": "error"}, 502, "an error event"),
        ({"type": "response.failed", "response": {"error": {"code": "server_error"}}}, 502, "server_error"),
        ({"type": "response.cancelled"}, 502, "'cancelled'"),
    ],
)
def test_an_event_that_tells_of_a_failure_is_one(event: dict[str, Any], status: int, told: str) -> None:
    with pytest.raises(ApiError) as caught:
        WIRE.chunks().add(event)
    assert caught.value.status == status
    assert told in caught.value.message


def test_a_custom_call_is_told_whole() -> None:
    item = {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "raw"}
    (made,) = read([{"type": "response.output_item.done", "output_index": 0, "item": item}] * 2)
    assert made["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "c", "type": "custom", "custom": {"name": "n", "input": "raw"}}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXT | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "delta", "item", "function", "index", "content"]), inner
        )
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(
        [
            "response.created",
            "response.completed",
            "response.output_item.added",
            "response.output_item.done",
            "response.output_text.delta",
            "response.output_text.done",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_text.annotation.added",
            "error",
        ]
    ),
    fields=st.dictionaries(
        st.sampled_from(
            ["delta", "item", "output_index", "content_index", "text", "response", "logprobs", "error"]
        ),
        JSON,
    ),
    delta=JSON,
)
def test_whatever_an_upstream_sends_is_read_or_a_failure(
    kind: str, fields: dict[str, Any], delta: Any
) -> None:
    try:
        WIRE.chunks().add({**fields, "type": kind})
    except ApiError as failure:
        status = failure.status
    else:
        status = 200
    assert status in {200, 400, 429, 502}
    writer = WIRE.events(asked())
    writer.add({"choices": [{"delta": delta}, delta], "usage": delta})
    writer.add({"choices": delta})
    writer.end()
    WIRE.answer({"choices": [{"message": delta}], "usage": delta}, request=asked())
