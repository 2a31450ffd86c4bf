"""The engine that answers chat requests in this process, and the backend that joins it with its learner."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import torch

from agentlightning.engine import ChatChunk, ChatCompletion, ChatRequest, InferenceEngine, Learner
from agentlightning.errors import ConfigError, EngineError
from lightning_plugin_torch._answer import Answer, SamplingParams, Token
from lightning_plugin_torch._build import build
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._compact import CHAT_TEMPLATE, CompactFormat
from lightning_plugin_torch._learner import TorchLearner
from lightning_plugin_torch._model import LoadedModel, load
from lightning_plugin_torch._options import TorchOptions, decode_build
from lightning_plugin_torch._request import Request, read_request
from lightning_plugin_torch._response import Envelope, completion, read_answer
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._sizes import safe_sizes
from lightning_plugin_torch._stream import stream_chunks
from lightning_plugin_torch._template import TemplateFormat
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._worker import Worker


class TorchBackend:
    """Sampler and learner of one model."""

    def __init__(self, options: TorchOptions, *, seed: int, directory: Path) -> None:
        worker = Worker(f"torch-{options.name}")
        engine = TorchEngine(options, seed=seed, directory=directory, worker=worker)
        self.engine: InferenceEngine = engine
        self.learner: Learner | None = TorchLearner(engine, worker)


class TorchEngine:
    """Answers chat requests from the weights that the learner trains.

    Attributes:
        model: Name under which it is served.
        version: Policy version that it samples from: the number of optimiser steps so far.
        endpoint: None: it is called in process.
    """

    def __init__(
        self,
        options: TorchOptions,
        *,
        seed: int,
        directory: Path,
        worker: Worker,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = options.name
        self.version = 0
        self.endpoint: str | None = None
        self._options = options
        self._seed = seed
        self._directory = directory
        self._worker = worker
        self._clock = clock
        self._requests = itertools.count()
        self._loaded: _Loaded | None = None

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
            ConfigError: The corpus, the device or the context cannot be used.
            EngineError: The model cannot be loaded.
        """
        if self._worker.running:
            return
        self._worker.start()
        try:
            self._loaded = await asyncio.wrap_future(self._worker.submit(self._load))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Cancels answers under way, ends the worker and frees the weights."""
        self._loaded = None
        await asyncio.to_thread(self._worker.stop)

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """Answers one request; safe to call from any thread's event loop."""
        loaded = self._ready()
        envelope = self._envelope(read_request(request), loaded)
        answers = self._sequences(envelope, loaded)
        await self._submit(answers, loaded)
        answers = []
        for answer in answers:
            message, cut = read_answer(envelope, answer, loaded.codec)
            answers.append((answer, message))
            if not cut:
                ids = [*envelope.prompt, *(token.id for token in answer.tokens)]
                loaded.codec.remember(envelope.request.messages, envelope.request.tools, ids, answer=message)
        return completion(envelope, answers, loaded.model.tokenizer.backend_tokenizer)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Answers one request in chunks, as tokens are sampled."""
        loaded = self._ready()
        envelope = self._envelope(read_request(request), loaded)
        sampled: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        answers = self._sequences(envelope, loaded)
        for answer in answers:
            answer.sink = _sink(loop, sampled, answer)
        finished = asyncio.ensure_future(self._submit(answers, loaded))
        tokenizer = loaded.model.tokenizer.backend_tokenizer
        try:
            async for chunk in stream_chunks(envelope, answers, sampled, finished, loaded.codec, tokenizer):
                yield chunk
        finally:
            finished.cancel()

    def _load(self) -> _Loaded:
        path = Path(self._options.model)
        if self._options.build is not None:
            path = self._directory / "model"
            build(decode_build(self._options.build), seed=self._seed, directory=path)
        model = load(path, self._options)
        threads = self._options.threads or (1 if model.small and model.device.type == "cpu" else 0)
        if threads:
            torch.set_num_threads(threads)
        sizes = safe_sizes(model, largest=self._options.batch)
        sampler = Sampler(model, sizes=sizes, max_active=self._options.max_active)
        self._worker.steps(sampler)
        return _Loaded(model, sampler, _codec(model), Trainer(model, sampler, self._options, self._directory))

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("engine 'torch' is not running; await engine.start() first")
        return self._loaded

    def _envelope(self, request: Request, loaded: _Loaded) -> Envelope:
        prompt = loaded.codec.prompt(request.messages, request.tools)
        if len(prompt) >= loaded.model.context:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and the model's context is {loaded.model.context}; "
                "shorten the conversation, or choose a model with a longer context"
            )
        which = next(self._requests) if request.seed is None else (request.seed, self.version, prompt)
        key = f"{self._seed}-{which}"
        name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        return Envelope(
            id=f"chatcmpl-{name}",
            created=int(self._clock()),
            model=self.model,
            request=request,
            prompt=prompt,
        )

    def _sequences(self, envelope: Envelope, loaded: _Loaded) -> list[Answer]:
        request = envelope.request
        room = loaded.model.context - len(envelope.prompt)
        seed = int(envelope.id[-16:], 16) if request.seed is None else request.seed
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
                Answer(prompt=envelope.prompt, params=params, end_ids=loaded.codec.end_ids, watch=watch)
            )
        return answers

    async def _submit(self, answers: list[Answer], loaded: _Loaded) -> None:
        """Samples the answers to their ends; cancelling frees their slots."""
        for answer in answers:
            self._worker.submit(partial(loaded.sampler.add, answer))
        await asyncio.gather(*(asyncio.wrap_future(answer.done) for answer in answers))


class _Loaded:
    """What exists once the model is loaded."""

    def __init__(self, model: LoadedModel, sampler: Sampler, codec: Codec, trainer: Trainer) -> None:
        self.model = model
        self.sampler = sampler
        self.codec = codec
        self.trainer = trainer


def _codec(model: LoadedModel) -> Codec:
    if model.tokenizer.chat_template == CHAT_TEMPLATE:
        return Codec(CompactFormat(model.tokenizer))
    return Codec(TemplateFormat(model.tokenizer, end_ids=model.end_ids))


def _watch(codec: Codec, stops: tuple[str, ...]) -> Callable[[int], bool]:
    reader = codec.reader(stops)

    def watch(token: int) -> bool:
        reader.push(token)
        return reader.stopped

    return watch


def _sink(
    loop: asyncio.AbstractEventLoop, sampled: asyncio.Queue[tuple[int, Token]], answer: Answer
) -> Callable[[Token], None]:
    def sink(token: Token) -> None:
        try:
            loop.call_soon_threadsafe(sampled.put_nowait, (answer.params.choice, token))
        except RuntimeError:  # the loop that asked is closed: nobody is listening
            answer.done.cancel()

    return sink
