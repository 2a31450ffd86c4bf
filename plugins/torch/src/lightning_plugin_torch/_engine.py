"""The engine that answers chat requests in this process, and the backend that joins it with its learner."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest, InferenceEngine, Learner
from agentlightning.errors import ConfigError, EngineError
from agentlightning.types import Json
from lightning_plugin_torch._answer import Answer, SamplingParams
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._exchange import Choice, Exchange
from lightning_plugin_torch._learner import create_learner
from lightning_plugin_torch._loaded import Loaded, load_all
from lightning_plugin_torch._messages import as_messages, as_tools
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._places import Places
from lightning_plugin_torch._request import Request, read_request
from lightning_plugin_torch._response import completion
from lightning_plugin_torch._sampler import SamplerCounts
from lightning_plugin_torch._standing import StandingHeap
from lightning_plugin_torch._stream import Tokens, stream_chunks
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._worker import Worker


class TorchBackend:
    """Sampler and learner of one model."""

    def __init__(self, options: TorchOptions, *, seed: int, directory: Path) -> None:
        worker = Worker(f"torch-{options.name}")
        engine = TorchEngine(options, worker, seed=seed, directory=directory)
        self.engine: InferenceEngine = engine
        self.learner: Learner | None = create_learner(options, engine, worker=worker)


class TorchEngine:
    """Answers chat requests from the weights that the learner trains.

    Attributes:
        model: Name under which it is served.
        version: Policy version that it samples from; see `agentlightning.versions`.
        endpoints: Empty: it is called in process.
        updates_in_flight: Answers under way go on with new weights; see the option `in_flight`.
    """

    def __init__(
        self,
        options: TorchOptions,
        worker: Worker,
        *,
        seed: int,
        directory: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = options.name
        self.version = 0
        self.endpoints: tuple[str, ...] = ()
        kept = {"keep": "kept", "recompute": "computed anew"}[options.in_flight]
        self.updates_in_flight = f"between two tokens; keys and values are {kept}"
        self._options = options
        self._worker = worker
        self._seed = seed
        self._directory = directory
        self._clock = clock
        self._requests = itertools.count()
        self._places = Places(options.max_active + options.max_waiting)
        self._standing = StandingHeap()
        self._loaded: Loaded | None = None

    @property
    def codec(self) -> Codec:
        """Conversations to tokens."""
        return self._ready().codec

    @property
    def trainer(self) -> Trainer:
        """What trains the weights, on the worker's thread only."""
        return self._ready().trainer

    async def start(self) -> None:
        """Builds the model if it is to be built, loads it, and takes requests; does nothing if it runs.

        Raises:
            ConfigError: The corpus, the device, the context or the chat template cannot be used.
            EngineError: The model cannot be loaded, or not be sampled from.
        """
        if self._worker.running:
            return
        self._worker.start()
        try:
            self._loaded = await asyncio.wrap_future(self._worker.submit(self._load))
            self.version = self._loaded.trainer.version
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Cancels answers under way, ends the worker and frees the weights."""
        self._standing.release()
        loaded, self._loaded = self._loaded, None
        if loaded is not None and self._worker.running:
            await asyncio.wrap_future(self._worker.submit(loaded.trainer.close))
        await asyncio.to_thread(self._worker.stop)

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """Answers one request; safe to call from any thread's event loop."""
        loaded = self._ready()
        exchange = self._exchange(read_request(request), loaded)
        answers = self._answers(exchange, loaded)
        await self._sample(answers, loaded)
        choices = [Choice(exchange, answer) for answer in answers]
        for choice in choices:
            for token in choice.answer.tokens:
                choice.push(token.id)
            choice.finish()
        return completion(exchange, choices)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Answers one request in chunks, as tokens are sampled."""
        loaded = self._ready()
        exchange = self._exchange(read_request(request), loaded)
        answers, tokens = self._answers(exchange, loaded), Tokens()
        for answer in answers:
            answer.sink = tokens.sink(answer)
        choices = [Choice(exchange, answer) for answer in answers]
        finished = asyncio.ensure_future(self._sample(answers, loaded))
        try:
            async for chunk in stream_chunks(exchange, choices, sampled=tokens.until(finished)):
                yield chunk
        finally:
            finished.cancel()

    async def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        add_generation_prompt: bool,
    ) -> list[int]:
        """Ids of a conversation by the chat template alone, whatever was sampled here.

        Raises:
            ConfigError: The messages or the tools are not what the wire allows.
        """
        codec = self._ready().codec
        return codec.render(
            as_messages(list(messages)), as_tools(list(tools)), generate=add_generation_prompt
        )

    async def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the names of control tokens."""
        tokenizer = self._ready().model.tokenizer.backend_tokenizer
        text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    async def counts(self) -> SamplerCounts:
        """What the sampler did since it started, and what it holds now."""
        return await asyncio.wrap_future(self._worker.submit(self._ready().sampler.counts))

    def _load(self) -> Loaded:
        loaded = load_all(self._options, seed=self._seed, directory=self._directory)
        self._worker.steps(loaded.sampler)
        return loaded

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise EngineError("engine 'torch' is not running; await engine.start() first")
        return self._loaded

    def _exchange(self, request: Request, loaded: Loaded) -> Exchange:
        prompt = _prompt(request, loaded)
        if len(prompt) >= loaded.model.context:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and the model's context is {loaded.model.context}; "
                "shorten the conversation, or choose a model with a longer context"
            )
        which = next(self._requests) if request.seed is None else (request.seed, self.version, prompt)
        name = hashlib.blake2b(f"{self._seed}-{which}".encode(), digest_size=12).hexdigest()
        return Exchange(
            id=f"chatcmpl-{name}",
            created=int(self._clock()),
            model=self.model,
            request=request,
            prompt=prompt,
            codec=loaded.codec,
            tokenizer=loaded.model.tokenizer.backend_tokenizer,
        )

    def _answers(self, exchange: Exchange, loaded: Loaded) -> list[Answer]:
        request = exchange.request
        room = loaded.model.context - len(exchange.prompt)
        seed = int(exchange.id[-16:], 16) if request.seed is None else request.seed
        answers = []
        for choice in range(request.n):
            params = SamplingParams(
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=min(request.max_tokens or room, room),
                seed=seed,
                choice=choice,
                top_logprobs=request.top_logprobs,
            )
            watch = _watch(loaded.codec, request.stop) if request.stop else None
            answers.append(
                Answer(
                    prompt=exchange.prompt,
                    params=params,
                    request=exchange.id,
                    end_ids=loaded.codec.end_ids,
                    watch=watch,
                )
            )
        return answers

    async def _sample(self, answers: list[Answer], loaded: Loaded) -> None:
        """Samples the answers to their ends; cancelling frees their places.

        Raises:
            EngineError: Too many wait already.
        """
        self._places.take(answers)
        for answer in answers:
            self._worker.submit(partial(loaded.sampler.add, answer))
        self._standing.hold()  # not at its start, after which adapters and the agent are imported
        await asyncio.gather(*(asyncio.wrap_future(answer.done) for answer in answers))


def _prompt(request: Request, loaded: Loaded) -> list[int]:
    if request.prompt is None:
        return loaded.codec.prompt(request.messages, request.tools)
    unknown = next((token for token in request.prompt if not 0 <= token < loaded.model.vocabulary), None)
    if unknown is not None:
        raise ConfigError(
            f"prompt_token_ids holds {unknown!r}; the model's ids are 0 to {loaded.model.vocabulary - 1}"
        )
    return list(request.prompt)


def _watch(codec: Codec, stops: tuple[str, ...]) -> Callable[[int], bool]:
    reader = codec.reader(stops)

    def watch(token: int) -> bool:
        reader.push(token)
        return reader.stopped

    return watch
