"""Stands in for vLLM: the same module, command line and endpoints, answers from a script, no model.

`FAKE` in the environment is a JSON object of what goes wrong: see `Plan`. Each control call is a line of `calls`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn


@dataclass
class Plan:
    calls: str = ""  # file that control calls are appended to
    dies: bool = False  # while it starts
    silent: bool = False  # never healthy
    child: str = ""  # starts a process that would sleep on, and writes its id there
    stubborn: bool = False  # ignores SIGTERM
    bad_adapter: str = ""  # name that is not loaded
    refuses: bool = False  # weights in place
    breaks_on: str = ""  # directory name prefix whose weights fail to load at the second server that is told
    dev: bool = True  # has the development endpoints
    reads: bool = False  # reads ids as chat
    key: str = ""


@dataclass
class State:
    names: list[str]
    weights: str
    adapters: dict[str, str] = field(default_factory=dict)
    running: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


class Answer(Exception):
    def __init__(self, status: int, body: object) -> None:
        self.status, self.body = status, body


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def failure(status: int, message: str) -> Answer:
    return Answer(status, {"error": {"message": message, "type": "Error", "param": None, "code": status}})


class App:
    def __init__(self, plan: Plan, state: State, arguments: list[str]) -> None:
        self.plan, self.state, self.arguments = plan, state, arguments
        state.open.set()
        state.idle.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        headers = dict(scope["headers"])
        try:
            if (
                self.plan.key
                and scope["path"].startswith("/v1")
                and headers.get(b"authorization") != f"Bearer {self.plan.key}".encode()
            ):
                raise Answer(401, {"error": "Unauthorized"})
            body = json.loads(raw) if raw else {}
            if scope["path"] == "/v1/chat/completions":
                await self.chat(body, send)
                return
            if scope["path"] == "/v1/completions" and "prompt_logprobs" not in body:
                await self.complete(body, send)
                return
            raise Answer(200, await self.control(scope["path"], query, body))
        except Answer as answer:
            await send({"type": "http.response.start", "status": answer.status, "headers": []})
            content = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            await send({"type": "http.response.body", "body": content.encode()})

    async def control(self, path: str, query: dict, body: dict) -> object:
        if path == "/health":
            if self.plan.silent:
                raise failure(503, "not yet")
            return ""
        if path == "/v1/models":
            return {"data": [{"id": name} for name in (*self.state.names, *self.state.adapters)]}
        if path == "/version":
            return {"version": "0.32.0"}
        if path == "/v1/completions":
            places = [None, *({str(token): {"logprob": -1.5}} for token in body["prompt"][1:])]
            return {"choices": [{"prompt_logprobs": places}]}
        if path in ("/v1/chat/completions/derender", "/tokenize", "/detokenize"):
            return self.tokens(path, body)
        if path == "/_state":
            return {
                "adapters": self.state.adapters,
                "weights": self.state.weights,
                "running": self.state.running,
                "arguments": self.arguments,
                "environment": dict(os.environ),
            }
        if path == "/_release":
            self.state.released.set()
            return {}
        if path == "/_die":
            say("fake: about to die of a bad kernel")
            os._exit(9)
        if not self.plan.dev and not path.startswith("/v1"):
            raise Answer(404, {"detail": "Not Found"})
        self.note(path, query or body)
        handler = getattr(self, path.removeprefix("/v1/").strip("/"), None)
        if handler is None:
            raise Answer(404, {"detail": "Not Found"})
        return await handler(query, body)

    def breaks(self, directory: str) -> bool:
        told = Path(self.plan.calls).read_text().count(directory)
        return told == 2 and Path(directory).name.startswith(self.plan.breaks_on)

    def note(self, path: str, about: dict) -> None:
        if self.plan.calls:
            with Path(self.plan.calls).open("a") as calls:
                calls.write(json.dumps([path, about]) + "\n")

    async def load_lora_adapter(self, query: dict, body: dict) -> object:
        directory = Path(body["lora_path"])
        if body["lora_name"] == self.plan.bad_adapter:
            raise failure(500, f"Call to add_lora method failed: bad rank in {directory.name}")
        if not (directory / "adapter_config.json").is_file():
            raise failure(404, f"Loading lora {body['lora_name']} failed: No adapter found for {directory}")
        self.state.adapters[body["lora_name"]] = str(directory)
        return "Success"

    async def unload_lora_adapter(self, query: dict, body: dict) -> object:
        if self.state.adapters.pop(body["lora_name"], None) is None:
            raise failure(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return "Success"

    async def pause(self, query: dict, body: dict) -> object:
        self.state.open.clear()
        if query["mode"] == "abort":
            self.state.aborted.set()
        if query["mode"] != "keep":
            await self.state.idle.wait()
        return {"status": "paused"}

    async def resume(self, query: dict, body: dict) -> object:
        self.state.aborted.clear()
        self.state.open.set()
        return {"status": "resumed"}

    async def collective_rpc(self, query: dict, body: dict) -> object:
        directory = body["kwargs"]["directory"]
        if "--worker-extension-cls" not in self.arguments:
            raise failure(500, f"Worker failed with error 'no attribute {body['method']}'")
        if self.plan.refuses:
            return {"results": [{"refused": "layers.0 keeps its weights in the way of FP8"}]}
        if self.plan.breaks_on and self.breaks(directory):
            raise failure(500, "Call to collective_rpc method failed: out of memory")
        self.state.weights = directory
        return {"results": [{"loaded": directory}]}

    async def reset_prefix_cache(self, query: dict, body: dict) -> object:
        return {"success": True}

    async def sleep(self, query: dict, body: dict) -> object:
        return {"status": "sleeping"}

    async def wake_up(self, query: dict, body: dict) -> object:
        return {"status": "awake"}

    async def chat(self, body: dict, send: Any) -> None:
        name = self.check(body["model"])
        if body.get("tools") and "--enable-auto-tool-choice" not in self.arguments:
            raise failure(
                400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            )
        text = body["messages"][-1]["content"]
        if text == "too long":
            raise failure(400, "This model's maximum context length is 256 tokens.")
        await self.state.open.wait()
        self.state.running += 1
        self.state.idle.clear()
        try:
            finish = await self.wait(text)
            said = self.state.adapters.get(name, self.state.weights)
            await self.write(body, f"{name}|{Path(said).name}", finish, send)
        finally:
            self.state.running -= 1
            if not self.state.running:
                self.state.idle.set()

    def check(self, name: str) -> str:
        if name not in (*self.state.names, *self.state.adapters):
            raise failure(404, f"The model `{name}` does not exist.")
        return name

    def tokens(self, path: str, body: dict) -> object:
        if path == "/detokenize":
            return {"prompt": "".join(chr(token) for token in body["tokens"])}
        if path != "/tokenize":
            return self.read(body)
        self.check(body["model"])
        return {"tokens": [len(body["messages"]), len(body.get("tools", [])), 7]}

    def read(self, body: dict) -> object:
        if not self.plan.reads:
            raise Answer(404, {"detail": "Not Found"})
        if not body:
            raise failure(400, "generate_response: Field required")
        self.check(body["chat_request"]["model"])
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
        read = []
        for choice in body["generate_response"]["choices"]:
            called = {"tool_calls": [call]} if body["chat_request"].get("tools") else {}
            message = {"role": "assistant", "content": f"read {choice['token_ids']}", **called}
            read.append({"index": choice["index"], "message": message})
        return {"choices": read}

    async def complete(self, body: dict, send: Any) -> None:
        """Says which ids it was asked after; ends with the id 9."""
        name = self.check(body["model"])
        said = self.state.adapters.get(name, self.state.weights)
        logprobs = None
        if body.get("logprobs") is not None:
            logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -0.25], "top_logprobs": None}
        choice = {"index": 0, "text": f"{Path(said).name} after {body['prompt']}", "finish_reason": "stop"}
        ids = (
            {"prompt_token_ids": body["prompt"], "token_ids": [5, 9]} if body.get("return_token_ids") else {}
        )
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 2}
        whole = {"id": "cmpl-1", "object": "text_completion", "model": name, "created": 1}
        whole["choices"] = [{**choice, **ids, "logprobs": logprobs}]
        if not body.get("stream"):
            raise Answer(200, {**whole, "usage": usage})
        head = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
        await send(head)
        for chunk in (whole, {**whole, "choices": [], "usage": usage}):
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def wait(self, text: str) -> str:
        if text != "hold":
            return "stop"
        waits = [asyncio.ensure_future(event.wait()) for event in (self.state.released, self.state.aborted)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return "abort" if self.state.aborted.is_set() else "stop"

    async def write(self, body: dict, text: str, finish: str, send: Any) -> None:
        logprobs = (
            {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
            if body.get("logprobs")
            else None
        )
        head = {"id": "chatcmpl-1", "model": body["model"], "created": 1}
        ids = {"token_ids": [5]} if body.get("return_token_ids") else {}
        prompt = {"prompt_token_ids": [1, 2]} if body.get("return_token_ids") else {}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            whole = {**head, **prompt, "choices": [{**choice, **ids, "logprobs": logprobs}], "usage": usage}
            raise Answer(200, whole)
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        chunks = [
            {**head, **prompt, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {**head, "choices": [{**choice, **ids, "logprobs": logprobs}]},
            {**head, "choices": [], "usage": usage},
        ]
        broken = body["messages"][-1]["content"] == "break off"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        for chunk in chunks[:1] if broken else chunks:
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            for half in (data[:9], data[9:]):
                await send({"type": "http.response.body", "body": half, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if broken else b": ping\n\ndata: [DONE]\n\n"})


def main() -> None:
    plan = Plan(**json.loads(os.environ.get("FAKE", "{}")))
    parser = argparse.ArgumentParser()
    for name in ("--model", "--served-model-name", "--host"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--enable-lora", action="store_true")
    known, _ = parser.parse_known_args()
    say(f"fake: starting with {known.model}; {os.environ.get('HF_TOKEN', '')}")
    if plan.stubborn:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if plan.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(plan.child).write_text(f"{os.getpid()} {child.pid}")
    if plan.dies:
        sys.exit("fake: ValueError: no such architecture")
    config = uvicorn.Config(
        App(plan, State([known.served_model_name], known.model), sys.argv[1:]),
        host=known.host,
        port=known.port,
        log_level="error",
        lifespan="off",
        timeout_graceful_shutdown=0,
    )
    server = uvicorn.Server(config)
    if plan.stubborn:
        server.install_signal_handlers = lambda: None
        server.capture_signals = __import__("contextlib").nullcontext
    server.run()


if __name__ == "__main__":
    main()
