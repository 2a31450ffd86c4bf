"""A server behind a URL that renders, decodes, completes and reads answers back, as vLLM does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from agentlightning.gateway import HttpUpstream
from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.turns import TurnBuilder
from lightning_plugin_gateway.turns._completions import completions_request

Talk = Any
END = 4
BOTH = ("chat", "completions")
TOOLS: list[Json] = [{"type": "function", "function": {"name": "a"}}]


@dataclass
class ModelServer:
    """Endpoints of a toy model's server; those in `refused` answer with that status."""

    renderer: Any
    refused: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    read: dict[str, Json] = field(default_factory=dict)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if status := self.refused.get(request.path):
            return web.json_response({"error": "no"}, status=status)
        body = await request.json()
        self.bodies.append(body)
        if request.path == "/tokenize":
            ids = await self.renderer.render(
                body["messages"], body.get("tools", []), add_generation_prompt=body["add_generation_prompt"]
            )
            return web.json_response({"tokens": ids})
        if request.path == "/detokenize":
            return web.json_response({"prompt": await self.renderer.decode(body["tokens"])})
        if "generate_response" not in body:
            return web.json_response({"error": "generate_response: field required"}, status=400)
        return web.json_response({"choices": [self.read for _ in body["generate_response"]["choices"]]})


Serve = Callable[..., Awaitable[ModelServer]]


@pytest.fixture
async def serve(start: Callable[..., Talk]) -> AsyncIterator[Serve]:
    runners = []

    async def serve(**refused: int) -> ModelServer:
        server = ModelServer(start().renderer, {path.replace("__", "/"): s for path, s in refused.items()})
        app = web.Application()
        app.router.add_post("/{path:.*}", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return server

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def talk_to(start: Callable[..., Talk]) -> AsyncIterator[Callable[..., Talk]]:
    builders = []

    def talk_to(url: str, **options: Any) -> Talk:
        talk = start(**options)
        talk.turns = TurnBuilder({"*": HttpUpstream(base_url=url)})
        talk.wires = BOTH
        builders.append(talk.turns)
        return talk

    yield talk_to
    for builder in builders:
        await builder.close()


async def test_a_next_turn_is_a_completion_of_exact_ids(serve: Serve, talk_to: Callable[..., Talk]) -> None:
    server = await serve()
    talk = talk_to(server.url)
    first, _ = await talk.ask("a", answer="abc")
    assert (first.wire, server.asked) == ("chat", [])
    before = talk.exact
    prepared, labels = await talk.ask("b")
    assert prepared.wire == "completions"
    assert "messages" not in prepared.request
    assert prepared.request["prompt"][: len(before)] == before
    assert prepared.request["max_tokens"] is None
    assert labels == {"agl.turn": "spliced", "agl.turn.common": len(before)}
    assert set(server.asked) == {"/tokenize", "/detokenize", "/v1/chat/completions/derender"}


async def test_tool_calls_are_read_back_by_the_server(serve: Serve, talk_to: Callable[..., Talk]) -> None:
    server = await serve()
    talk = talk_to(server.url, tools=True)
    talk.messages.append({"role": "user", "content": "a"})
    await talk.use(said='{"a":"b"}')
    before = talk.exact
    prepared, labels = await talk.use(said='{"b":"c"}')
    assert prepared.wire == "completions"
    assert labels == {"agl.turn": "spliced", "agl.turn.common": len(before)}
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_2"}]}
    server.read = {"message": called, "finish_reason": "stop"}
    sampled = {"message": {"role": "assistant", "content": "<call>…"}, "logprobs": {}}
    ended = {**sampled, "finish_reason": "stop", "token_ids": [1, 2, END]}
    cut = {**sampled, "finish_reason": "length", "token_ids": [1, 2]}
    silent = {**sampled, "finish_reason": "stop", "token_ids": [END]}
    prompted = {"prompt_token_ids": talk.prompt}
    said = {"choices": [{**choice, **prompted} for choice in (ended, silent, cut)]}
    completion = await talk.turns.read(prepared, said)
    assert completion["prompt_token_ids"] == talk.prompt
    assert completion["choices"] == [
        {**ended, "message": called, "finish_reason": "tool_calls"},
        silent,
        {**cut, "message": called},
    ]
    sent = server.bodies[-1]
    assert sent["prompt_token_ids"] == talk.prompt
    assert sent["chat_request"]["tools"] == talk.tools
    assert [choice["token_ids"] for choice in sent["generate_response"]["choices"]] == [[1, 2], [1, 2]]
    server.refused["/v1/chat/completions/derender"] = 500
    with pytest.raises(ApiError, match="could not read its own answer") as caught:
        await talk.turns.read(prepared, said)
    assert caught.value.status == 502


async def test_without_a_reader_only_requests_without_tools_are_continued(
    serve: Serve, talk_to: Callable[..., Talk]
) -> None:
    server = await serve(__v1__chat__completions__derender=403)
    for tools in (True, False):
        talk = talk_to(server.url, tools=tools)
        await talk.ask("a", answer="abc")
        prepared, labels = await talk.ask("b")
        assert prepared.wire == ("chat" if tools else "completions")
        assert labels["agl.turn"] == ("retokenisation" if tools else "spliced")
        said = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
        assert await talk.turns.read(prepared, said) == said


async def test_a_server_that_does_not_render_is_asked_once(
    serve: Serve, talk_to: Callable[..., Talk]
) -> None:
    server = await serve(__tokenize=404)
    talk = talk_to(server.url)
    for _ in range(4):
        prepared, _ = await talk.ask("a", answer="abc")
        assert prepared.wire == "chat"
    assert server.asked.count("/tokenize") == 1


@pytest.mark.parametrize("status", [500, 0])
async def test_a_server_that_fails_to_render_is_left_alone_for_a_while(
    serve: Serve, talk_to: Callable[..., Talk], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(__tokenize=status)
    talk = talk_to(server.url if status else "http://127.0.0.1:9/v1")
    for _ in range(4):
        prepared, labels = await talk.ask("a", answer="abc")
        assert prepared.wire == "chat"
    assert labels["agl.turn"] == "retokenisation"
    assert len(caplog.records) == 1
    assert server.asked.count("/tokenize") == (1 if status else 0)


async def test_a_replica_that_cannot_be_reached_is_passed_over(
    serve: Serve, talk_to: Callable[..., Talk]
) -> None:
    server = await serve()
    talk = talk_to("http://127.0.0.1:9/v1")
    upstream = HttpUpstream(base_url="http://127.0.0.1:9/v1", replicas=(server.url,))
    talk.turns = TurnBuilder({"*": upstream})
    await talk.ask("a", answer="abc")
    prepared, _ = await talk.ask("b")
    await talk.turns.close()
    assert prepared.wire == "completions"


async def test_a_call_that_may_not_go_out_as_a_completion_is_compared(
    serve: Serve, talk_to: Callable[..., Talk]
) -> None:
    server = await serve()
    talk = talk_to(server.url)
    talk.wires = ("chat",)
    await talk.ask("a", answer="abc")
    prepared, labels = await talk.ask("b")
    assert (prepared.wire, server.asked) == ("chat", [])
    assert labels["agl.turn"] == "retokenisation"


@pytest.mark.parametrize(
    ("request_", "parsed", "expected"),
    [
        (
            {"max_completion_tokens": 5, "max_tokens": 9, "logprobs": True},
            False,
            {"max_tokens": 5, "logprobs": 0},
        ),
        ({"temperature": 0.5, "seed": 3, "stop": ["x"], "n": 2}, False, {"temperature": 0.5, "stop": ["x"]}),
        ({"tools": TOOLS}, True, {}),
        ({"tools": TOOLS, "tool_choice": "none", "stream": True}, False, {"stream": True}),
        ({"tools": TOOLS}, False, None),
        ({"tools": TOOLS, "stream": True}, True, None),
        ({"tools": TOOLS, "stop": "x"}, True, None),
        ({"stop": "x"}, True, None),
        ({"stop": "x", "stream": True}, True, {"stop": "x"}),
        ({"tools": TOOLS, "tool_choice": "required"}, True, None),
        ({"top_logprobs": 3}, True, None),
        ({"response_format": {"type": "json_object"}}, True, None),
        ({"reasoning_effort": "low"}, True, None),
        ({"something_new": 1}, True, None),
        ({"something_new": None}, True, {}),
    ],
)
def test_what_a_completion_can_ask(
    request_: dict[str, Json], parsed: bool, expected: dict[str, Json] | None
) -> None:
    asked = {"model": "m", "messages": [], "return_token_ids": True, **request_}
    sent = completions_request(asked, [1, 2], parsed=parsed)
    if expected is None:
        assert sent is None
        return
    assert sent is not None
    assert sent == {**sent, "model": "m", "prompt": [1, 2], "return_token_ids": True, **expected}
    assert not {"messages", "tools", "tool_choice", "max_completion_tokens", "something_new"} & set(sent)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_does_not_say_whether_it_reads_is_asked_again_later(
    serve: Serve, talk_to: Callable[..., Talk], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_plugin_gateway.turns._target._QUIET_S", 0.0)
    server = await serve(__v1__chat__completions__derender=status)
    talk = talk_to(server.url, tools=True)
    await talk.ask("a", answer="abc")
    prepared, _ = await talk.ask("b")  # nobody would read a tool call back
    assert prepared.wire == "chat"
    server.refused.clear()
    prepared, _ = await talk.ask("c")
    assert prepared.wire == "completions"


async def test_a_server_that_no_longer_reads_fails_no_more_than_the_calls_that_it_has(
    serve: Serve, talk_to: Callable[..., Talk]
) -> None:
    server = await serve()
    talk = talk_to(server.url, tools=True)
    await talk.ask("a", answer="abc")
    prepared, _ = await talk.ask("b")
    server.refused["/v1/chat/completions/derender"] = 404
    sampled = {
        "message": {"role": "assistant", "content": "a"},
        "finish_reason": "stop",
        "token_ids": [1, END],
    }
    for _ in range(2):  # no call with tools is given to its agent unread
        with pytest.raises(ApiError, match="could not read its own answer"):
            await talk.turns.read(prepared, {"choices": [{**sampled, "prompt_token_ids": talk.prompt}]})
    prepared, _ = await talk.ask("c")
    assert prepared.wire == "chat"


async def test_an_answer_of_any_length_is_not_kept(
    serve: Serve,
    talk_to: Callable[..., Talk],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lightning_plugin_gateway.turns._server._LARGEST_ANSWER", 8)
    server = await serve()
    talk = talk_to(server.url)
    await talk.ask("a", answer="abc")
    prepared, _ = await talk.ask("b")
    assert prepared.wire == "chat"
    assert "more than 8 bytes" in caplog.text


async def test_a_server_behind_a_socket_is_compared(talk_to: Callable[..., Talk]) -> None:
    talk = talk_to("http+unix://%2Frun%2Fmodel.sock/v1")
    await talk.ask("a", answer="abc")
    prepared, labels = await talk.ask("b")
    assert (prepared.wire, labels["agl.turn"]) == ("chat", "retokenisation")
