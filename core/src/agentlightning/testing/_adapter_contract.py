"""What every framework adapter must do: subclass `AdapterContract` in a test module."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass

from opentelemetry.sdk.trace import TracerProvider

from agentlightning import semconv
from agentlightning.agents import Adapter
from agentlightning.capture import Endpoint, RolloutContext, in_rollout, install_tracing
from agentlightning.testing._scripted_answer import ScriptedAnswer, ScriptedFault, ScriptedReply
from agentlightning.testing._scripted_llm import Script, ScriptedLLM
from agentlightning.testing._scripted_wire import ScriptedRequest
from agentlightning.types import Json, Mode, Resource, Span, SpanStatus

USER_KEY = "users-own-key"
USER_MODEL = "users-own-model"
RUNS = 16


class ListSink:
    """Keeps the spans of a rollout."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        """Takes a span."""
        self.spans.append(span)

    @property
    def chats(self) -> list[Span]:
        """Its model calls."""
        return self.of(semconv.OPERATION_CHAT)

    def of(self, operation: str) -> list[Span]:
        """Its spans of an operation, in the order of their ends."""
        return [span for span in self.spans if span.operation == operation]


@dataclass(frozen=True, kw_only=True)
class AdapterStage:
    """Where an adapter is tried: instrumented, with the user's own model server and the one of the rollout.

    Attributes:
        own: Where the agent's client points; answers `own: ` and what was asked.
        gateway: Where rollouts point; answers `gateway: ` and what was asked.
        sink: Takes the spans of the rollout.
    """

    adapter: Adapter
    provider: TracerProvider
    own: ScriptedLLM
    gateway: ScriptedLLM
    sink: ListSink

    def rollout(
        self,
        name: str = "a",
        *,
        sink: ListSink | None = None,
        resources: Mapping[str, Resource] | None = None,
    ) -> RolloutContext:
        """A rollout with an endpoint."""
        endpoint = Endpoint(base_url=self.gateway.base_url, api_key=f"key-{name}", model="gateways-model")
        return RolloutContext(
            rollout_id=f"r-{name}",
            attempt_id=name,
            mode=Mode.TRAIN,
            sink=sink or self.sink,
            endpoint=endpoint,
            resources=resources or {},
        )


class AdapterContract:
    """Tests that an adapter captures and binds a framework without changing what its calls do.

    Attributes:
        first_text_event: How many events a stream of its protocol has until the first with text; 3 for chat completions
            and Anthropic's messages, 5 for responses.
    """

    first_text_event = 3

    def make_adapter(self) -> Adapter:
        """Makes the adapter."""
        raise NotImplementedError

    def originals(self) -> Sequence[object]:
        """Everything of the framework that the adapter replaces, as it is now."""
        raise NotImplementedError

    async def ask(self, base_url: str, text: str) -> object:
        """Asks once, with an agent of the framework whose client has `base_url`, `USER_KEY` and `USER_MODEL`.

        Returns:
            What the framework returned.
        """
        raise NotImplementedError

    def ask_in_thread(self, base_url: str, text: str) -> object:
        """The same without an event loop."""
        raise NotImplementedError

    def stream(self, base_url: str, text: str) -> AsyncIterator[str]:
        """The same, streamed: the texts as they come."""
        raise NotImplementedError

    def text_of(self, result: object) -> str:
        """The answer in what `ask` and `ask_in_thread` return."""
        raise NotImplementedError

    async def test_results_keep_their_type_and_content(self) -> None:
        """In a rollout, out of one, and without the adapter."""
        with servers() as (own, _):
            plain = await self.ask(own.base_url, "hi")
        with self.stage() as stage:
            outside = await self.ask(stage.own.base_url, "hi")
            with in_rollout(stage.rollout()):
                inside = await self.ask(stage.own.base_url, "hi")
        assert type(plain) is type(outside) is type(inside)
        assert self.text_of(plain) == self.text_of(outside) == "own: hi"
        assert self.text_of(inside) == "gateway: hi"

    async def test_a_call_is_a_span_of_its_rollout(self) -> None:
        """With model, messages, usage and finish reasons, below the span it happened in."""
        with self.stage() as stage, in_rollout(stage.rollout()):
            with stage.provider.get_tracer("test").start_as_current_span("around"):
                await self.ask(stage.own.base_url, "hi")
            (chat,) = stage.sink.chats
            around = stage.sink.spans[-1]
        found = chat.attributes
        assert (chat.rollout_id, chat.attempt_id, chat.status) == ("r-a", "a", SpanStatus.UNSET)
        assert _below(chat, around, stage.sink.spans)
        assert found[semconv.REQUEST_MODEL] == "gateways-model"
        assert found[semconv.RESPONSE_ID] in ("chatcmpl-1", "resp_1", "msg_1")
        assert found[semconv.FINISH_REASONS] == ["stop"]
        assert found[semconv.OUTPUT_TOKENS]
        assert "hi" in _texts(found[semconv.INPUT_MESSAGES])
        assert "gateway: hi" in _texts(found[semconv.OUTPUT_MESSAGES])

    async def test_calls_outside_of_rollouts_go_where_they_went(self) -> None:
        """To the user's server, with the user's key and model."""
        with self.stage() as stage:
            await self.ask(stage.own.base_url, "hi")
            (request,) = stage.own.requests
            assert stage.gateway.requests == []
        assert request.headers["authorization"] == f"Bearer {USER_KEY}"
        assert request.json["model"] == USER_MODEL
        assert stage.sink.spans == []

    async def test_a_rollouts_calls_go_to_its_endpoint(self) -> None:
        """With its key and model, the span as `traceparent`, and nothing of the user's key."""
        with self.stage() as stage, in_rollout(stage.rollout()):
            await self.ask(stage.own.base_url, "hi")
            (request,) = stage.gateway.requests
            assert stage.own.requests == []
        assert request.headers["authorization"] == "Bearer key-a"
        assert request.json["model"] == "gateways-model"
        assert USER_KEY not in repr(request.headers)
        (chat,) = stage.sink.chats
        assert request.headers["traceparent"].split("-")[1:3] == [chat.trace_id, chat.span_id]

    async def test_concurrent_rollouts_do_not_mix(self) -> None:
        """Sixteen in one process, several calls each: everyone's key, spans and answers are their own."""
        with self.stage() as stage:
            sinks = [ListSink() for _ in range(RUNS)]

            async def run(number: int) -> list[str]:
                with in_rollout(stage.rollout(str(number), sink=sinks[number])):
                    results = [await self.ask(stage.own.base_url, f"{number}/{turn}") for turn in range(3)]
                return [self.text_of(result) for result in results]

            answers = await asyncio.gather(*map(run, range(RUNS)))
            assert stage.own.requests == []
            keys = {(r.headers["authorization"], _asked(r).split("/")[0]) for r in stage.gateway.requests}
        assert answers == [[f"gateway: {number}/{turn}" for turn in range(3)] for number in range(RUNS)]
        assert keys == {(f"Bearer key-{number}", str(number)) for number in range(RUNS)}
        assert [[span.attempt_id for span in sink.chats] for sink in sinks] == [
            [str(number)] * 3 for number in range(RUNS)
        ]

    async def test_threads_keep_their_rollout(self) -> None:
        """Where they are started with a copied context."""
        with self.stage() as stage, ThreadPoolExecutor(4) as threads:

            def run(number: int) -> str:
                with in_rollout(stage.rollout(str(number))):
                    return self.text_of(self.ask_in_thread(stage.own.base_url, str(number)))

            jobs = [threads.submit(copy_context().run, run, number) for number in range(RUNS)]
            answers = [await asyncio.wrap_future(job) for job in jobs]
        assert answers == [f"gateway: {number}" for number in range(RUNS)]
        assert sorted(int(span.attempt_id) for span in stage.sink.chats) == list(range(RUNS))

    async def test_a_stream_stays_lazy_and_its_span_ends_with_it(self) -> None:
        """Parts arrive while the server still holds the rest; the span is whole in the end."""
        with self.stage(
            ScriptedAnswer(text="one two three", chunk_chars=4, hold_after=self.first_text_event)
        ) as stage:
            parts: list[str] = []
            with in_rollout(stage.rollout()):
                stream = self.stream(stage.own.base_url, "hi")
                while "".join(parts).strip() == "":
                    parts.append(await anext(stream))
                early = list(stage.sink.chats)
                stage.gateway.let_go()
                parts += [part async for part in stream]
        assert early == []
        assert "".join(parts) == "one two three"
        (chat,) = stage.sink.chats
        assert "one two three" in _texts(chat.attributes[semconv.OUTPUT_MESSAGES])
        assert semconv.CANCELLED not in chat.attributes

    async def test_an_abandoned_stream_is_recorded_as_cancelled(self) -> None:
        """With what had come until then."""
        with self.stage(
            ScriptedAnswer(text="one two three", chunk_chars=4, hold_after=self.first_text_event)
        ) as stage:
            with in_rollout(stage.rollout()):
                stream = self.stream(stage.own.base_url, "hi")
                while (await anext(stream)).strip() == "":
                    pass
                await stream.aclose()  # type: ignore[attr-defined]
            stage.gateway.let_go()
        (chat,) = stage.sink.chats
        assert chat.attributes[semconv.CANCELLED] is True
        assert "one" in _texts(chat.attributes[semconv.OUTPUT_MESSAGES])

    async def test_exceptions_come_out_as_they_are(self) -> None:
        """The framework's own, with its message; the span says so."""
        fault = ScriptedFault(status=400, message="no such thing")
        with servers(fault) as (_, server):
            plain = await self.failure(server.base_url)
        with self.stage(fault) as stage, in_rollout(stage.rollout()):
            seen = await self.failure(stage.own.base_url)
        assert (type(seen), str(seen)) == (type(plain), str(plain))
        (chat,) = stage.sink.chats
        assert chat.status is SpanStatus.ERROR
        assert "no such thing" in (chat.error or "")

    async def test_cancellation_passes_through(self) -> None:
        """At once, and the server sees its client leave."""
        with self.stage(ScriptedAnswer(text="late", hold_after=0)) as stage, in_rollout(stage.rollout()):
            asking = asyncio.create_task(_done(self.ask(stage.own.base_url, "hi")))
            await asyncio.to_thread(stage.gateway.wait_held)
            asking.cancel()
            (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            stage.gateway.let_go()
        assert isinstance(outcome, asyncio.CancelledError)
        (chat,) = stage.sink.chats
        assert chat.attributes[semconv.CANCELLED] is True

    async def test_instrumenting_twice_captures_once(self) -> None:
        """The second time does nothing."""
        with self.stage() as stage, in_rollout(stage.rollout()):
            stage.adapter.instrument(stage.provider)
            await self.ask(stage.own.base_url, "hi")
        assert len(stage.sink.chats) == 1

    async def test_everything_is_put_back(self) -> None:
        """The very same objects; calls are neither captured nor bound any more."""
        before = list(self.originals())
        with self.stage() as stage:
            stage.adapter.uninstrument()
            after = list(self.originals())
            with in_rollout(stage.rollout()):
                await self.ask(stage.own.base_url, "hi")
            assert len(stage.own.requests) == 1
        assert len(before) == len(after)
        assert all(new is old for new, old in zip(after, before, strict=True))
        assert stage.sink.spans == []

    def test_objects_of_other_frameworks_are_not_accepted(self) -> None:
        """And have nothing to tune."""
        adapter = self.make_adapter()
        assert not adapter.accepts(object())
        assert adapter.tunables(object()) == []

    @contextmanager
    def stage(self, reply: ScriptedReply | Script | None = None) -> Iterator[AdapterStage]:
        """An instrumented process. `reply` is what the rollout's endpoint always answers, or a function of requests."""
        provider = TracerProvider()
        install_tracing(provider)
        adapter = self.make_adapter()
        with servers(reply) as (own, gateway):
            adapter.instrument(provider)
            try:
                yield AdapterStage(
                    adapter=adapter, provider=provider, own=own, gateway=gateway, sink=ListSink()
                )
            finally:
                adapter.uninstrument()
                provider.shutdown()

    async def failure(self, base_url: str) -> Exception:
        """What `ask` raises."""
        try:
            await self.ask(base_url, "hi")
        except Exception as error:  # noqa: BLE001 - whatever the framework raises
            return error
        raise AssertionError("the call did not fail")


@contextmanager
def servers(reply: ScriptedReply | Script | None = None) -> Iterator[tuple[ScriptedLLM, ScriptedLLM]]:
    """The user's own model server and the one of rollouts; the latter always answers `reply`, if that is given."""

    def echo(name: str) -> ScriptedLLM:
        return ScriptedLLM(lambda request: ScriptedAnswer(text=f"{name}: {_asked(request)}"))

    gateway = echo("gateway") if reply is None else ScriptedLLM(_script(reply))
    with echo("own") as own, gateway:
        yield own, gateway


def _script(reply: ScriptedReply | Script) -> Script:
    return reply if callable(reply) else lambda _: reply


async def _done(asking: object) -> object:
    return await asking  # type: ignore[misc]


def _asked(request: ScriptedRequest) -> str:
    messages = request.json.get("messages", request.json.get("input"))
    return _texts(messages[-1:] if isinstance(messages, list) else messages)


def _texts(value: Json) -> str:
    """All texts of messages, in the form of OpenAI or OpenTelemetry."""
    if isinstance(value, list):
        return "".join(map(_texts, value))
    if isinstance(value, dict):
        return "".join(_texts(value.get(key)) for key in ("parts", "content", "text"))
    return value if isinstance(value, str) else ""


def _below(span: Span, above: Span, spans: Sequence[Span]) -> bool:
    by_id = {one.span_id: one for one in spans}
    found: Span | None = span
    while found is not None and found.span_id != above.span_id:
        found = by_id.get(found.parent_id or "")
    return found is not None
