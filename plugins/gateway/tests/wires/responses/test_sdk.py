"""The official SDK against a server that answers Responses from scripted chat completions, through the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseInputParam, ToolParam
from pydantic import BaseModel, TypeAdapter

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.responses import Responses

WIRE = Responses()
TEXT = " Grüße, 𝄞\n\n  twice  "
FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Reply(BaseModel):
    text: str
    count: int


class Server(ThreadingHTTPServer):
    """Answers each request with the next message of a script; what it was asked is kept as chat requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.histories: dict[str, list[dict[str, Any]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Is silent."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        try:
            assert self.path == "/v1" + WIRE.path
            request = WIRE.parse(raw)
            before = self.server.histories.get(str(request.get("previous_response_id")), [])
            chat = WIRE.to_chat(request, before=before)
        except ApiError as error:
            self._send(error.status, "application/json", WIRE.error(error))
            return
        self.server.asked.append(chat)
        message = self.server.script.pop(0)
        completion = _completion(message, len(self.server.asked))
        answer = WIRE.answer(completion, request=request)
        self.server.histories[answer["id"]] = WIRE.history(request, chat, completion)
        if not request.get("stream"):
            self._send(200, "application/json", json.dumps(answer).encode())
            return
        writer = WIRE.events(request)
        body = b": keep-alive\n\n" + b"".join(map(writer.add, _chunks(completion)))
        if "error" in message:
            end = WIRE.error_event(ApiError(502, message["error"], fault="upstream_error"))
        else:
            end = writer.end()
        self._send(200, "text/event-stream", body + end)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _completion(message: dict[str, Any], number: int) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, **message}
    finish = said.pop("finish", "tool_calls" if said.get("tool_calls") else "stop")
    said.pop("error", None)
    return {
        "id": said.pop("ident", f"chatcmpl-{number}"),
        "created": 7,
        "model": "served",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def _chunks(completion: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The completion character by character."""
    (choice,) = completion["choices"]
    frame = {name: completion[name] for name in ("id", "created", "model")}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in choice["message"].get(name) or ""]
    for index, call in enumerate(choice["message"].get("tool_calls", ())):
        whole = call["function"]
        deltas.append({"tool_calls": [{**call, "index": index, "function": {**whole, "arguments": ""}}]})
        pieces = [{"index": index, "function": {"arguments": piece}} for piece in whole["arguments"]]
        deltas += [{"tool_calls": [piece]} for piece in pieces]
    for delta in deltas:
        yield {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    yield {**frame, "choices": [], "usage": completion["usage"]}


def calls(*arguments: str) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{place}", "type": "function", "function": {"name": "weather", "arguments": one}}
        for place, one in enumerate(arguments)
    ]


EVERYTHING = {
    "content": TEXT,
    "reasoning_content": "hm ",
    "tool_calls": calls('{"city":"Köln"}', '{"city":""}'),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0, timeout=20) as sdk:
        yield sdk


@pytest.fixture
async def async_client(server: Server) -> Any:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0, timeout=20) as sdk:
        yield sdk


def test_an_answer_is_read_by_the_sdk(client: openai.OpenAI, server: Server) -> None:
    server.script.append(EVERYTHING)
    answer = client.responses.create(model="m", input="hi", tools=[FUNCTION], instructions="be")
    assert answer.output_text == TEXT
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    assert answer.usage.total_tokens == 3
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "hi"},
    ]
    assert server.asked[0]["tools"][0]["function"]["strict"] is True


async def test_an_answer_is_read_by_the_asynchronous_sdk(
    async_client: openai.AsyncOpenAI, server: Server
) -> None:
    server.script.append(EVERYTHING)
    answer = await async_client.responses.create(model="m", input="hi", tools=[FUNCTION])
    assert answer.output_text == TEXT
    assert answer.output[2].arguments == '{"city":"Köln"}'


def test_structured_output_and_arguments_are_parsed_by_the_sdk(client: openai.OpenAI, server: Server) -> None:
    tool = openai.pydantic_function_tool(Reply)["function"]
    function = {"type": "function", **tool}
    arguments = '{"text":"a","count":1}'
    called = [{"id": "c", "type": "function", "function": {"name": "Reply", "arguments": arguments}}]
    server.script += [{"content": arguments}, {"tool_calls": called}]
    assert client.responses.parse(model="m", input="hi", text_format=Reply).output_parsed == Reply(
        text="a", count=1
    )
    chat_format = server.asked[0]["response_format"]
    assert chat_format["json_schema"]["name"] == "Reply"
    assert chat_format["json_schema"]["strict"] is True
    answer = client.responses.parse(model="m", input="hi", tools=[function])
    assert answer.output[0].parsed_arguments == {"text": "a", "count": 1}


def test_a_stream_is_put_together_by_the_sdk(client: openai.OpenAI, server: Server) -> None:
    server.script += [{**EVERYTHING, "ident": "same"}] * 2
    whole = client.responses.create(model="m", input="hi", tools=[FUNCTION])
    with client.responses.stream(model="m", input="hi", tools=[FUNCTION]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    texts = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in texts) == TEXT
    assert texts[-1].snapshot == TEXT
    assert final.output_text == TEXT
    expected, read = whole.to_dict(), final.to_dict()
    for item in read["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or []:
            part.pop("parsed", None)
    assert read["output"] == expected["output"]
    assert read["usage"] == expected["usage"]


async def test_a_stream_is_put_together_by_the_asynchronous_sdk(
    async_client: openai.AsyncOpenAI, server: Server
) -> None:
    server.script += [EVERYTHING, {"content": '{"text":"a","count":1}'}]
    stream = await async_client.responses.create(model="m", input="hi", stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"
    async with async_client.responses.stream(model="m", input="hi", text_format=Reply) as parsing:
        final = await parsing.get_final_response()
    assert final.output_parsed == Reply(text="a", count=1)


def test_an_answer_that_was_cut_ends_its_stream_as_incomplete(client: openai.OpenAI, server: Server) -> None:
    server.script.append({"content": "a", "finish": "length"})
    with client.responses.create(model="m", input="hi", stream=True, max_output_tokens=16) as stream:
        *_, last = stream
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_a_refused_request_is_raised_with_the_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'web_search'"):
        client.responses.create(model="m", input="hi", tools=[{"type": "web_search"}])
    with pytest.raises(openai.BadRequestError, match="`background`"):
        client.responses.create(model="m", input="hi", background=True)


def test_a_stream_that_fails_is_raised_with_the_reason(client: openai.OpenAI, server: Server) -> None:
    server.script += [{"content": "a", "error": "the upstream is gone"}] * 2
    with (
        client.responses.create(model="m", input="hi", stream=True) as events,
        pytest.raises(openai.APIError, match="the upstream is gone"),
    ):
        list(events)
    with (
        client.responses.stream(model="m", input="hi") as stream,
        pytest.raises(openai.APIError, match="the upstream is gone"),
    ):
        stream.get_final_response()


@pytest.mark.parametrize("store", [True, False])
def test_a_conversation_of_several_turns_is_what_chat_would_have_had(
    client: openai.OpenAI, server: Server, *, store: bool
) -> None:
    """By the ids of answers, or by handing every item back: the model is asked the same."""
    server.script += [EVERYTHING, {"content": "sunny", "reasoning_content": "so"}, {"content": "bye"}]
    items: list[Any] = [{"role": "user", "content": "hi"}]
    more: dict[str, Any] = {"model": "m", "tools": [FUNCTION], "include": ["reasoning.encrypted_content"]}
    first = client.responses.create(input=items, instructions="be", **more)
    called = [item for item in first.output if item.type == "function_call"]
    outputs = [{"type": "function_call_output", "call_id": item.call_id, "output": "sun"} for item in called]
    if store:
        second = client.responses.create(input=outputs, previous_response_id=first.id, **more)
        client.responses.create(input="thanks", previous_response_id=second.id, **more)
    else:
        items += [*first.output, *outputs]
        second = client.responses.create(input=items, **more)
        client.responses.create(input=[*items, *second.output, {"role": "user", "content": "thanks"}], **more)
    assert server.asked[2]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", **EVERYTHING},
        {"role": "tool", "tool_call_id": "call_0", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "assistant", "content": "sunny", "reasoning_content": "so"},
        {"role": "user", "content": "thanks"},
    ]


def test_a_native_request_made_of_a_chat_request_has_the_types_of_the_sdk() -> None:
    native = WIRE.from_chat(
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image_url", "image_url": {"url": "https://host/x.png"}},
                        {"type": "file", "file": {"file_id": "f"}},
                    ],
                },
                {"role": "assistant", **EVERYTHING},
                {"role": "tool", "tool_call_id": "call_0", "content": "sun"},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
                {"role": "assistant", "content": "well", "refusal": "no"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }
    )
    items: Any = TypeAdapter(ResponseInputParam).validate_python(native["input"])
    assert len(items) == len(native["input"]) == 8
    TypeAdapter(ToolParam).validate_python(native["tools"][0])
