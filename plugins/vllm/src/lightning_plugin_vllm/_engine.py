"""The engine: servers of one model, started and stopped together, and asked under the name of the newest weights."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest
from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import Json
from lightning_plugin_vllm._client import Refused, Unreachable
from lightning_plugin_vllm._options import PauseMode, VllmOptions
from lightning_plugin_vllm._prompts import (
    as_chat,
    as_completion,
    chunks_of,
    objects,
    offers_tools,
    prompt_of,
    spoken_ids,
    with_message,
    without_ids,
)
from lightning_plugin_vllm._replica import Replica

_NO_READING = "its servers do not read answers by their ids; start them with --enable-scale-out (exact_turns)"
FULLEST = 1.25
"""A server takes at most this times its share of the calls in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is sampled from.

    Attributes:
        name: Name that the servers know the weights by.
        version: Policy version.
    """

    name: str
    version: int


class Weights(Protocol):
    """Where the weights come from."""

    @property
    def version(self) -> int:
        """Their policy version."""
        ...

    async def start(self) -> str:
        """Gets ready; returns the directory that the servers load."""
        ...

    async def check(self, engine: VllmEngine) -> None:
        """Makes sure that the servers compute with these weights. Raises `EngineError`."""
        ...

    async def stop(self) -> None:
        """Frees what it holds."""
        ...


class VllmEngine:
    """Serves a model from vLLM servers.

    Attributes:
        model: Name under which it is served.
        version: Policy version that new requests are answered with.
        endpoints: Base URLs of the servers once they run; none if only `chat` knows the newest adapter's name, or the
            servers' key.
        serving: The weights that new requests are answered with.
        loaded: Directory that the servers were last started with.
    """

    def __init__(self, options: VllmOptions, replicas: list[Replica], *, weights: Weights) -> None:
        self.model = options.name
        self.version = 0
        self.endpoints: tuple[str, ...] = ()
        self.serving = Serving(name=base_name(options, version=0), version=0)
        self._served: list[int] = []
        self.loaded = ""
        self._options = options
        self._replicas = replicas
        self._weights = weights
        self._started = self._reads = False
        self._lock = threading.Lock()  # calls come from several threads
        self._running: Counter[str] = Counter()

    @property
    def replicas(self) -> list[Replica]:
        """The servers. Raises `EngineError` before they have been started."""
        if not self._started:
            raise EngineError("engine 'vllm' is not running; await engine.start() first")
        return self._replicas

    async def start(self) -> None:
        """Starts the servers, or looks whether they are there; does nothing if that was done.

        Raises:
            ConfigError: A server that was started elsewhere does not serve the model.
            EngineError: A server does not get ready, or computes something else than the learner.
        """
        if self._started:
            return
        try:
            model, version = await self._weights.start(), self._weights.version
            self.serve(Serving(name=base_name(self._options, version=version), version=version))
            await self.start_servers(model)
            self._started = True
            await self._weights.check(self)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the servers that were started here; calls in flight fail."""
        self._started = False
        await self.stop_servers()
        await self._weights.stop()

    async def start_servers(self, model: str) -> None:
        """Starts every server with the weights in a directory; the first that fails ends the wait."""
        name, self.loaded = self.serving.name, model
        try:
            async with asyncio.TaskGroup() as group:
                for replica in self._replicas:
                    group.create_task(_start(replica, model=model, served_as=name))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self._reads = all(await asyncio.gather(*(replica.client.reads() for replica in self._replicas)))
        if not self._options.lora_rank and not self._options.api_key_env:
            self.endpoints = tuple(replica.client.url for replica in self._replicas)

    def serve(self, serving: Serving) -> None:
        """Answers new requests with other weights."""
        with self._lock:
            self.serving, self.version = serving, serving.version
            self._served.append(serving.version)

    async def stop_servers(self) -> None:
        """Ends the servers that were started here."""
        await asyncio.gather(*(replica.stop() for replica in self._replicas))

    def busy(self, name: str) -> bool:
        """Whether a request to the weights of that name is under way."""
        with self._lock:
            return self._running[name] > 0

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """Answers one request; a server that cannot be reached is passed over for another.

        The field `prompt_token_ids` is sampled after in place of what the messages render to.

        Raises:
            ConfigError: The request cannot be honoured.
            EngineError: A server failed.
        """
        prompt = self._prompt(request)
        body = {**request, "stream": False}
        body.pop("stream_options", None)
        tried: list[Replica] = []
        while True:
            with self._call(request, tried) as (replica, serving):
                try:
                    completion = await self._answer(replica, {**body, "model": serving.name}, prompt)
                except (Refused, Unreachable) as error:
                    self._give_up(error, replica, tried)
                    continue
                return completion | {"model": self.model} | self._versions(serving)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Answers one request in chunks; the last one carries `usage` and `policy_version`.

        An answer after `prompt_token_ids` that may call tools is read as a whole, and comes in one chunk.
        """
        prompt = self._prompt(request)
        if prompt is not None and offers_tools(request):
            whole = await self.chat(request)
            said = {name: whole[name] for name in ("policy_version", "policy_versions") if name in whole}
            for chunk in chunks_of(whole):
                yield chunk | (said if "usage" in chunk else {})
            return
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        tried: list[Replica] = []
        begun = False
        while True:
            with self._call(request, tried) as (replica, serving):
                try:
                    async for chunk in self._chunks(replica, {**body, "model": serving.name}, prompt):
                        begun = True
                        last = (
                            self._versions(serving) if "usage" in chunk and not chunk.get("choices") else {}
                        )
                        yield chunk | {"model": self.model} | last
                except (Refused, Unreachable) as error:
                    self._give_up(error, replica, self._replicas if begun else tried)
                else:
                    return

    async def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        add_generation_prompt: bool,
    ) -> list[int]:
        """Ids of a conversation by the chat template, with the start of the next answer if asked for.

        Raises:
            EngineError: With tools, the servers cannot read answers by their ids, so that ids are of no use.
        """
        if tools and not self._reads:
            raise EngineError(f"engine 'vllm' cannot continue conversations with tools by ids: {_NO_READING}")
        client = self.replicas[0].client
        return await client.tokenize(
            self.serving.name, messages, tools=tools, add_generation_prompt=add_generation_prompt
        )

    async def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the names of control tokens."""
        return await self.replicas[0].client.detokenize(self.serving.name, ids)

    async def pause(self, mode: PauseMode = "wait") -> None:
        """Holds new requests at every server; returns once nothing runs."""
        await self._everywhere(lambda replica: replica.client.pause(mode))

    async def resume(self) -> None:
        """Lets requests go on."""
        await self._everywhere(lambda replica: replica.client.resume())

    async def sleep(self, level: int = 1) -> None:
        """Frees the servers' memory until `wake_up`: their caches (1), or the weights too (2).

        Raises:
            EngineError: A server refuses; the message says why.
        """
        await self._everywhere(lambda replica: replica.client.sleep(level))

    async def wake_up(self) -> None:
        """Takes the memory back."""
        await self._everywhere(lambda replica: replica.client.wake_up())

    async def logprobs(self, token_ids: list[int]) -> list[list[float]]:
        """Log-probabilities of all tokens but the first under the newest weights, for each server."""
        name = self.serving.name
        return list(
            await asyncio.gather(*(one.client.prompt_logprobs(name, token_ids) for one in self.replicas))
        )

    async def _everywhere(self, job: Callable[[Replica], Awaitable[None]]) -> None:
        await asyncio.gather(*(job(replica) for replica in self.replicas))

    def _prompt(self, request: ChatRequest) -> list[int] | None:
        prompt = prompt_of(request)
        if prompt is not None and offers_tools(request) and not self._reads:
            raise ConfigError(f"prompt_token_ids and tools in one request cannot be honoured: {_NO_READING}")
        return prompt

    async def _answer(
        self, replica: Replica, body: dict[str, Json], prompt: list[int] | None
    ) -> ChatCompletion:
        """One server's answer, read as chat."""
        if prompt is None:
            return await replica.client.chat(body)
        completion = await replica.client.complete(as_completion(body, prompt))
        answer = as_chat(completion, {**body, "return_token_ids": True}, prompt=prompt)
        if self._reads:
            choices = objects(answer["choices"])
            spoken = [{**choice, "token_ids": spoken_ids(choice)} for choice in choices]
            said = [choice for choice in spoken if choice["token_ids"]]
            asked = {name: value for name, value in body.items() if name != "prompt_token_ids"}
            read = iter(await replica.client.read(asked, said, prompt=prompt) if said else [])
            answer["choices"] = [
                with_message(choice, next(read)) if one["token_ids"] else choice
                for choice, one in zip(choices, spoken, strict=True)
            ]
        return answer if body.get("return_token_ids") else without_ids(answer)

    async def _chunks(
        self, replica: Replica, body: dict[str, Json], prompt: list[int] | None
    ) -> AsyncIterator[ChatChunk]:
        if prompt is None:
            async for chunk in replica.client.stream(body):
                yield chunk
            return
        async for chunk in replica.client.stream(as_completion(body, prompt), path="/v1/completions"):
            yield as_chat(chunk, body, prompt=prompt, stream=True)

    @contextmanager
    def _call(self, request: ChatRequest, tried: list[Replica]) -> Iterator[tuple[Replica, Serving]]:
        """A call to a server that was not tried yet, counted while it lasts."""
        with self._lock:
            serving = self.serving
            replica = choose([one for one in self.replicas if one not in tried], request)
            replica.running += 1
            self._running[serving.name] += 1
        try:
            yield replica, serving
        finally:
            with self._lock:
                replica.running -= 1
                self._running[serving.name] -= 1

    def _give_up(self, error: Refused | Unreachable, replica: Replica, tried: list[Replica]) -> None:
        """Raises the error, unless there is another server to try."""
        if isinstance(error, Unreachable) and len({id(one) for one in (*tried, replica)}) < len(
            self._replicas
        ):
            tried.append(replica)
            return
        if isinstance(error, Refused) and 400 <= error.status < 500:
            raise ConfigError(str(error)) from error
        raise replica.explain(error) from error

    def _versions(self, began: Serving) -> dict[str, Json]:
        """An adapter stays what it was; whole weights may have been replaced meanwhile."""
        first: dict[str, Json] = {"policy_version": began.version}
        if self._options.lora_rank or self.version == began.version:
            return first
        with self._lock:
            served = [version for version in self._served if version >= began.version]
        return first | {"policy_versions": [*served]}


def choose(replicas: list[Replica], request: ChatRequest) -> Replica:
    """The server that conversations with this beginning go to, for its cache; the least busy one if that has too many.

    Consistent hashing with bounded loads (Mirrokni et al. 2016, https://arxiv.org/abs/1608.01350).
    """
    messages = request.get("messages")
    beginning = msgspec.json.encode(messages[:2] if isinstance(messages, list) else None)

    def rank(replica: Replica) -> bytes:
        return hashlib.blake2b(beginning + replica.client.url.encode(), digest_size=8).digest()

    running = sum(replica.running for replica in replicas) + 1
    affine = max(replicas, key=rank)
    if affine.running < math.ceil(FULLEST * running / len(replicas)):
        return affine
    return min(replicas, key=lambda replica: replica.running)


def base_name(options: VllmOptions, *, version: int) -> str:
    """What the servers call the weights that they start with: with adapters, the first version of many."""
    return f"{options.name}@v{version}" if options.lora_rank and not options.servers else options.name


async def _start(replica: Replica, *, model: str, served_as: str) -> None:
    await replica.start(model=model, served_as=served_as)
    names = await replica.client.models()
    if served_as not in names:
        raise ConfigError(
            f"vLLM at {replica.client.url} does not serve {served_as!r} but {names!r}; set name to one of them"
        )
