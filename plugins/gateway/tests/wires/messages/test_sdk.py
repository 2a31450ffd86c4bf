"""Anthropic's SDK against a server that answers from scripted chat completions through this wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires.messages import Messages

WIRE = Messages()
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather somewhere.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
HI: Any = [{"role": "user", "content": "hi"}]


class Server:
    """Answers each request with the next completion of a script, in pieces if it is streamed.

    Attributes:
        script: Messages of the assistant, or failures; a failure after a message ends its stream.
        asked: Chat requests.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[Any] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["content-length"]))
        try:
            request = WIRE.parse(
                raw
                if handler.path == "/v1/messages"
                else json.dumps({"max_tokens": 1} | json.loads(raw)).encode()
            )
            if handler.path == "/v1/messages/count_tokens":
                self.asked.append(WIRE.count_request(request))
                reply(handler, 200, json.dumps(WIRE.count_answer(len(raw))).encode())
                return
            self.asked.append(WIRE.to_chat(request))
            said = self.script.pop(0)
            if isinstance(said, ApiError):
                raise said
        except ApiError as error:
            reply(handler, error.status, WIRE.error(error), dict(error.headers))
            return
        if request.get("stream"):
            self.stream(handler, request, said)
        else:
            reply(handler, 200, json.dumps(WIRE.answer(completion(said), request=request)).encode())

    def stream(self, handler: BaseHTTPRequestHandler, request: Any, said: Any) -> None:
        head(handler, 200, "text/event-stream")
        writer = WIRE.events(request)
        for chunk in chunks(said):
            handler.wfile.write(writer.add(chunk))
        failed = bool(self.script) and isinstance(self.script[0], ApiError)
        handler.wfile.write(WIRE.error_event(self.script.pop(0)) if failed else writer.end())


def completion(message: Any) -> Any:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": "chatcmpl-1",
        "model": "tiny",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }


def chunks(message: Any) -> Iterator[Any]:
    whole = completion(message)
    deltas = [{name: piece} for name in ("reasoning_content", "content") for piece in message.get(name) or ""]
    for index, call in enumerate(message.get("tool_calls", [])):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        deltas.append({"tool_calls": [{"index": index, "id": call["id"], "function": {"name": name}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in arguments
        ]
    for delta in deltas:
        yield {**whole, "choices": [{"index": 0, "delta": delta}], "usage": None}
    yield {
        **whole,
        "choices": [{"index": 0, "delta": {}, "finish_reason": whole["choices"][0]["finish_reason"]}],
    }


def head(handler: BaseHTTPRequestHandler, status: int, kind: str, headers: Any = None) -> None:
    handler.send_response(status)
    for name, value in {"content-type": kind, **(headers or {})}.items():
        handler.send_header(*(one if isinstance(one, str) else one.decode() for one in (name, value)))
    handler.end_headers()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Any = None) -> None:
    head(handler, status, "application/json", {"content-length": str(len(body)), **(headers or {})})
    handler.wfile.write(body)


def call(arguments: str, ident: str = "call_1") -> Any:
    return {"id": ident, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


@pytest.fixture
def server() -> Iterator[Server]:
    scripted = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            scripted.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        scripted.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield scripted
        listening.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def test_an_agent_calls_a_tool_and_goes_on(server: Server, client: anthropic.Anthropic) -> None:
    server.script = [
        {"reasoning_content": "look", "content": " Let me see.", "tool_calls": [call('{"place": "Köln"}')]},
        {"content": "Rain.\n"},
    ]
    turns = [*HI]
    first = client.messages.create(model="m", max_tokens=99, messages=turns, tools=[TOOL], system="be brief")
    assert first.stop_reason == "tool_use"
    use = next(block for block in first.content if block.type == "tool_use")
    assert use.input == {"place": "Köln"}
    turns.append({"role": "assistant", "content": first.content})
    turns.append(
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]}
    )
    second = client.messages.create(model="m", max_tokens=99, messages=turns, tools=[TOOL], system="be brief")
    assert [block.text for block in second.content if block.type == "text"] == ["Rain.\n"]
    assert second.usage.input_tokens == 5
    assert server.asked[1]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": " Let me see.",
            "reasoning_content": "look",
            "tool_calls": [call('{"place":"Köln"}')],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


ANSWERS = [
    {"content": " Hé ☀️\n\n"},
    {"content": ""},
    {"reasoning_content": "hm", "content": "so"},
    {"content": "two", "tool_calls": [call('{"place":"a"}', "c1"), call("{}", "c2")]},
    {"content": None, "tool_calls": [call('{"place": oops')]},
]


@pytest.mark.parametrize("said", ANSWERS)
def test_a_stream_is_the_answer_that_is_not_streamed(
    server: Server, client: anthropic.Anthropic, said: Any
) -> None:
    server.script = [said, said]
    whole = client.messages.create(model="m", max_tokens=99, messages=HI)
    with client.messages.stream(model="m", max_tokens=99, messages=HI) as stream:
        told = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.to_dict() == {**whole.to_dict(), "stop_details": None}
    assert told == (said["content"] or "")


@pytest.mark.parametrize("said", ANSWERS)
async def test_the_same_without_blocking(server: Server, said: Any) -> None:
    server.script = [said, said]
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        whole = await client.messages.create(model="m", max_tokens=99, messages=HI)
        async with client.messages.stream(model="m", max_tokens=99, messages=HI) as stream:
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="m", messages=HI)
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert counted.input_tokens > 0


def test_raw_events_are_those_of_the_sdk(server: Server, client: anthropic.Anthropic) -> None:
    server.script = [ANSWERS[3]]
    kinds = [
        event.type for event in client.messages.create(model="m", max_tokens=9, messages=HI, stream=True)
    ]
    assert kinds[0] == "message_start"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_arguments_are_taken_early_by_who_asks_for_them(server: Server, client: anthropic.Anthropic) -> None:
    server.script = [{"content": None, "tool_calls": [call('{"place": "Köln"}')]}]
    tool: Any = {**TOOL, "eager_input_streaming": True}
    with client.messages.stream(model="m", max_tokens=9, messages=HI, tools=[tool]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        (block,) = stream.get_final_message().content
    assert "".join(pieces) == '{"place": "Köln"}'
    assert len(pieces) > 10
    assert block.input == {"place": "Köln"}


def test_tokens_are_counted(server: Server, client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="m", messages=HI, system="be brief", tools=[TOOL])
    assert counted.input_tokens > 0
    assert [message["role"] for message in server.asked[0]["messages"]] == ["system", "user"]


class Weather(BaseModel):
    place: str
    degrees: int


def test_structured_output_is_asked_and_read(server: Server, client: anthropic.Anthropic) -> None:
    server.script = [{"content": '{"place": "Köln", "degrees": 9}'}]
    parsed = client.messages.parse(model="m", max_tokens=99, messages=HI, output_format=Weather)
    assert parsed.parsed_output == Weather(place="Köln", degrees=9)
    shape = server.asked[0]["response_format"]
    assert shape["type"] == "json_schema"
    assert set(shape["json_schema"]["schema"]["properties"]) == {"place", "degrees"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, anthropic.APIStatusError),
        (429, anthropic.RateLimitError),
        (502, anthropic.InternalServerError),
        (503, anthropic.APIStatusError),
    ],
)
def test_failures_are_raised_as_those_of_the_api(
    server: Server, client: anthropic.Anthropic, status: int, kind: type[anthropic.APIStatusError]
) -> None:
    server.script = [ApiError(status, "what to do", fault="gateway_error")]
    with pytest.raises(kind, match="what to do") as caught:
        client.messages.create(model="m", max_tokens=9, messages=HI)
    assert caught.value.status_code == status


def test_a_failure_in_a_stream_is_raised(server: Server, client: anthropic.Anthropic) -> None:
    server.script = [{"content": "half"}, ApiError(502, "the upstream is gone", fault="upstream_closed")]
    with (
        pytest.raises(anthropic.APIStatusError, match="the upstream is gone"),
        client.messages.stream(model="m", max_tokens=9, messages=HI) as stream,
    ):
        stream.get_final_message()


def test_what_a_model_cannot_be_asked_is_a_bad_request(server: Server, client: anthropic.Anthropic) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        client.messages.create(model="m", max_tokens=9, messages=HI, tools=[search])
