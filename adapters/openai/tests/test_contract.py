"""The OpenAI adapter passes the contract of adapters; broken ones fail it where they should."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai.resources import completions, embeddings
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.resources.responses import AsyncResponses, Responses
from opentelemetry.trace import TracerProvider

from agentlightning.agents import Adapter
from agentlightning.capture import current_rollout, in_rollout
from agentlightning.testing import AdapterContract
from lightning_adapter_openai import OpenAIAdapter

KEY, MODEL = "users-own-key", "users-own-model"


class TestOpenAIAdapter(AdapterContract):
    def make_adapter(self) -> Adapter:
        return OpenAIAdapter()

    def originals(self) -> Sequence[object]:
        parsing = (Completions, AsyncCompletions, Responses, AsyncResponses)
        others = (completions.Completions, completions.AsyncCompletions)
        others += (embeddings.Embeddings, embeddings.AsyncEmbeddings)
        found: list[tuple[type, str]] = [(owner, name) for owner in parsing for name in ("create", "parse")]
        found += [(owner, "create") for owner in others]
        found += [(owner, "__init__") for owner in (openai.OpenAI, openai.AsyncOpenAI)]
        return [owner.__dict__[name] for owner, name in found]

    def client(self, base_url: str) -> openai.AsyncOpenAI:
        transport = openai.DefaultAsyncHttpxClient(
            verify=False
        )  # loading certificates is most of a client's cost
        return openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, http_client=transport)

    async def ask(self, base_url: str, text: str) -> object:
        async with self.client(base_url) as client:
            return await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}]
            )

    def ask_in_thread(self, base_url: str, text: str) -> object:
        transport = openai.DefaultHttpxClient(verify=False)
        with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, http_client=transport) as client:
            return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with self.client(base_url) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], stream=True
            )
            async with stream:
                async for chunk in stream:
                    yield "".join(choice.delta.content or "" for choice in chunk.choices)

    def text_of(self, result: object) -> str:
        assert isinstance(result, openai.types.chat.ChatCompletion)
        return result.choices[0].message.content or ""


class TestOpenAIAdapterWithResponses(TestOpenAIAdapter):
    """The same through the Responses API."""

    first_text_event = 5

    async def ask(self, base_url: str, text: str) -> object:
        async with self.client(base_url) as client:
            return await client.responses.create(model=MODEL, input=text)

    def ask_in_thread(self, base_url: str, text: str) -> object:
        transport = openai.DefaultHttpxClient(verify=False)
        with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, http_client=transport) as client:
            return client.responses.create(model=MODEL, input=text)

    async def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        async with self.client(base_url) as client:
            stream = await client.responses.create(model=MODEL, input=text, stream=True)
            async with stream:
                async for event in stream:
                    yield event.delta if event.type == "response.output_text.delta" else ""

    def text_of(self, result: object) -> str:
        assert isinstance(result, openai.types.responses.Response)
        return result.output_text


class Broken(OpenAIAdapter):
    """An adapter with a flaw on top, put on every async call."""

    def __init__(self) -> None:
        super().__init__()
        self.below: list[Any] = []

    def instrument(self, tracer_provider: TracerProvider) -> None:
        super().instrument(tracer_provider)
        if not self.below:
            self.below.append(AsyncCompletions.__dict__["create"])
            AsyncCompletions.create = self.flawed(AsyncCompletions.create)  # type: ignore[assignment,method-assign]

    def uninstrument(self) -> None:
        if self.below:
            AsyncCompletions.create = self.below.pop()
        super().uninstrument()

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        return create


class Translating(Broken):
    """Raises errors of its own."""

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        async def call(*args: object, **kwargs: object) -> object:
            try:
                return await create(*args, **kwargs)  # type: ignore[misc]
            except openai.APIError as error:
                raise RuntimeError(str(error)) from error

        return call


class Stubborn(Broken):
    """Swallows cancellation."""

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        async def call(*args: object, **kwargs: object) -> object:
            with contextlib.suppress(asyncio.CancelledError):
                return await create(*args, **kwargs)  # type: ignore[misc]
            return None

        return call


class Unpacking(Broken):
    """Changes the type of what it returns."""

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        class Answer(openai.types.chat.ChatCompletion):
            pass

        async def call(*args: object, **kwargs: object) -> object:
            answer = await create(*args, **kwargs)  # type: ignore[misc]
            if isinstance(answer, openai.types.chat.ChatCompletion):
                return Answer.model_construct(**dict(answer))
            return answer

        return call


class Greedy(Broken):
    """Reads streams to their end before it hands them out."""

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        async def call(*args: object, **kwargs: object) -> object:
            answer = await create(*args, **kwargs)  # type: ignore[misc]
            if isinstance(answer, openai.AsyncStream):
                await asyncio.wait_for(answer.response.aread(), 0.3)
            return answer

        return call


class Sticky(Broken):
    """Takes the first rollout that it sees for every rollout's."""

    def flawed(self, create: Callable[..., object]) -> Callable[..., object]:
        first: list[object] = []

        async def call(*args: object, **kwargs: object) -> object:
            if (context := current_rollout()) and context.attempt_id.isdigit():
                first.append(context)
                with in_rollout(first[0]):  # type: ignore[arg-type]
                    return await create(*args, **kwargs)  # type: ignore[misc]
            return await create(*args, **kwargs)  # type: ignore[misc]

        return call


class Clinging(OpenAIAdapter):
    """Does not put back what it replaced."""

    def uninstrument(self) -> None:
        self._left = getattr(self, "_left", None) or AsyncCompletions.create
        super().uninstrument()
        AsyncCompletions.create = self._left  # type: ignore[method-assign]


CHECKS = sorted(name for name in dir(AdapterContract) if name.startswith("test_"))


@contextmanager
def put_back() -> Iterator[None]:
    kept = AsyncCompletions.__dict__["create"]
    try:
        yield
    finally:
        AsyncCompletions.create = kept  # type: ignore[method-assign]


async def failures(adapter: type[OpenAIAdapter]) -> list[str]:
    contract = TestOpenAIAdapter()
    contract.make_adapter = adapter  # type: ignore[method-assign]
    failed = []
    for name in CHECKS:
        with put_back():
            try:
                outcome = getattr(contract, name)()
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:  # noqa: BLE001 - however it fails
                failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (Broken, []),
        (Translating, ["test_exceptions_come_out_as_they_are"]),
        (Stubborn, ["test_cancellation_passes_through"]),
        (Unpacking, ["test_results_keep_their_type_and_content"]),
        (Sticky, ["test_concurrent_rollouts_do_not_mix"]),
        (Clinging, ["test_everything_is_put_back"]),
    ],
)
async def test_a_broken_adapter_fails_exactly_where_it_is_broken(
    adapter: type[OpenAIAdapter], expected: list[str]
) -> None:
    assert await failures(adapter) == expected


async def test_an_adapter_that_reads_streams_ahead_fails() -> None:
    failed = await failures(Greedy)
    assert "test_a_stream_stays_lazy_and_its_span_ends_with_it" in failed
    assert set(failed) <= {name for name in CHECKS if "stream" in name}
