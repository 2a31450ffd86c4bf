"""Framework and gateway spans of whole agents become one transition per call, whatever happened on their way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import (
    Episode,
    Experience,
    Json,
    Span,
    SpanSource,
    SpanStatus,
    TokenRecord,
    Trajectory,
)

CHAT, AGENT, TOOL, OTHER = (
    semconv.OPERATION_CHAT,
    semconv.OPERATION_AGENT,
    semconv.OPERATION_TOOL,
    semconv.OPERATION_OTHER,
)
ADAPTER, GATEWAY, OTLP = SpanSource.ADAPTER, SpanSource.GATEWAY, SpanSource.OTLP
GAP = 10
"""Between what happens one after the other; more than what lies between a framework's clock and the gateway's."""


@dataclass
class World:
    """Agents at work: draws what they do, writes down the spans, and knows what is true.

    Attributes:
        skew: What the gateway's clock is ahead, in nanoseconds.
        named: Framework calls say whose they are, so agents' own spans may get lost.
        spans: As they ended.
        calls: Token and agent of each call that was answered, in order for each agent.
        lost: Spans that never arrive.
    """

    data: st.DataObject
    skew: int = 0
    named: bool = False
    black_box: bool = True
    now: int = 1_000
    spans: list[Span] = field(default_factory=list)
    calls: list[tuple[int, str]] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    ids: int = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:016x}"

    def draw(self, *choices: object) -> object:
        return self.data.draw(st.sampled_from(choices))

    def add(self, span_id: str, operation: str, source: SpanSource, start: int, **more: object) -> None:
        given = {"name": operation, "status": SpanStatus.OK, "end_ns": self.now} | more
        self.spans.append(
            Span(
                rollout_id="rollout",
                attempt_id="rollout-1",
                span_id=span_id,
                trace_id="0" * 31 + "1",
                operation=operation,
                source=source,
                start_ns=start,
                **given,  # type: ignore[arg-type]
            )
        )

    def agent(self, name: str, parent: str | None, depth: int) -> None:
        own, start = self.new_id(), self.now
        for _ in range(self.data.draw(st.integers(1, 3))):
            self.now += GAP
            if depth and self.draw(False, True):
                self.tools(name, own, depth)
            else:
                self.call(name, own)
        self.now += GAP
        self.add(own, AGENT, ADAPTER, start, agent=name, parent_id=parent)
        if self.named and self.draw(False, True):
            self.lost.add(own)

    def tools(self, name: str, parent: str, depth: int) -> None:
        """Tools at once, each with an agent inside."""
        start, ends = self.now, [self.now]
        for branch in range(self.data.draw(st.integers(1, 2))):
            own, self.now = self.new_id(), start + branch
            self.agent(f"{name}.{len(self.calls)}.{branch}", own, depth - 1)
            self.now += GAP
            self.add(own, TOOL, ADAPTER, start + branch, parent_id=parent)
            ends.append(self.now)
        self.now = max(ends)

    def call(self, name: str, parent: str) -> None:
        """One call, from its outermost framework to the gateway and back."""
        token = len(self.calls) + 1
        response = f"chatcmpl-{token}"
        layers = self.draw(0, 1, 1, 2) if self.black_box else self.draw(1, 2)
        linked = self.draw("trace", "id", "both") if layers else "trace"
        twin = bool(layers) and linked != "trace" and self.draw(False, True)
        framed: list[tuple[str, int, str | None]] = []
        near: str | None = parent
        begun = self.now
        for _ in range(int(str(layers))):
            framed.append((self.new_id(), self.now, near))
            near, self.now = framed[-1][0], self.now + 1
            if self.draw(False, True):  # a request of an HTTP client, seen by a third instrumentation
                request = self.new_id()
                self.add(request, OTHER, OTLP, self.now, end_ns=self.now + 5, parent_id=near, name="POST")
                near = request
        above = near if linked != "id" else self.draw(None, parent)
        for _ in range(self.data.draw(st.integers(0, 1))):  # tries that the SDK repeats
            self.now += 1
            self.served(above, self.now, status=SpanStatus.ERROR)
        self.now += 1
        start = self.now
        self.now += self.data.draw(st.integers(0, 3))
        record = TokenRecord.pack([1], [token], [-0.5], version=0)
        attributes: dict[str, Json] = {semconv.RESPONSE_ID: response}
        self.served(above, start, tokens=(record,), attributes=attributes)
        known = dict(attributes) if linked != "trace" else {}
        for place, (span_id, begin, around) in reversed(list(enumerate(framed))):
            self.now += 1
            said = name if self.named and place == 0 else None
            layer = f"layer {place}"
            self.add(
                span_id, CHAT, ADAPTER, begin, parent_id=around, name=layer, agent=said, attributes=known
            )
        if twin:
            self.add(self.new_id(), CHAT, OTLP, begun, parent_id=parent, name="other", attributes=known)
        self.calls.append((token, name))

    def served(self, parent: object, start: int, **more: object) -> None:
        start, end = start + self.skew, self.now + self.skew
        self.add(self.new_id(), CHAT, GATEWAY, start, end_ns=end, parent_id=parent, **more)

    def episode(self, rng: random.Random) -> Episode:
        """What arrived: in any order, some of it twice, some of it not at all."""
        arrived = [span for span in self.spans if span.span_id not in self.lost]
        arrived += rng.sample(arrived, self.data.draw(st.integers(0, min(2, len(arrived)))))
        rng.shuffle(arrived)
        numbered = (msgspec.structs.replace(span, sequence=place) for place, span in enumerate(arrived, 1))
        return msgspec.structs.replace(EpisodeBuilder().build(), spans=tuple(numbered))


def run(*episodes: Episode, upto: str) -> Experience:
    stages = ("normalise", "join", "order", "transitions")
    pipeline = Pipeline.from_specs(
        {spec.name: spec for spec in BUILTIN_STAGES},
        load=lambda spec: load_target(spec.target),
        chosen=[(name, {}) for name in stages[: stages.index(upto) + 1]],
    )
    return pipeline.run(Experience(episodes=episodes))


def trajectory(episode: Episode) -> Trajectory:
    (found,) = run(episode, upto="transitions").trajectories
    return found


def check(world: World, episode: Episode) -> None:
    """Each call exactly once, with its ids, of the right agent, and in its agent's order."""
    found = trajectory(episode).transitions
    told = [(one.tokens.response_ids[0], one.agent) for one in found if one.tokens]
    assert sorted(told) == sorted(world.calls)
    for name in {name for _, name in world.calls}:
        assert [one for one in told if one[1] == name] == [one for one in world.calls if one[1] == name]
    (joined,) = run(episode, upto="join").episodes
    answered = [span for span in joined.spans if span.operation == CHAT and span.status is SpanStatus.OK]
    assert len(answered) == len(world.calls)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(-1_000_000, 1_000_000), st.booleans(), st.randoms(use_true_random=False))
def test_every_call_is_one_transition(
    data: st.DataObject, skew: int, named: bool, rng: random.Random
) -> None:
    world = World(data, skew=skew, named=named, black_box=not named and abs(skew) < 3)
    world.agent("root", None, 2)
    check(world, world.episode(rng))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(-1_000_000, 1_000_000), st.randoms(use_true_random=False))
def test_calls_without_a_framework_are_in_order_although_the_gateway_s_clock_is_another(
    data: st.DataObject, skew: int, rng: random.Random
) -> None:
    world = World(data, skew=skew)
    world.black_box = False
    world.now += GAP
    own, start = world.new_id(), 0
    for _ in range(2):  # from which the difference is known
        world.call("root", own)
        world.now += GAP
    world.black_box = True
    for _ in range(data.draw(st.integers(1, 5))):
        world.call("root", own)
        world.now += GAP
    world.add(own, AGENT, ADAPTER, start, agent="root")
    check(world, world.episode(rng))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.randoms(use_true_random=False))
def test_agents_on_a_machine_whose_clock_is_behind_stay_within_what_called_them(
    data: st.DataObject, rng: random.Random
) -> None:
    world = World(data, black_box=False)
    agent = world.new_id()
    world.now += GAP
    world.call("root", agent)
    world.now += GAP
    tool, start = world.new_id(), world.now
    before = len(world.spans)
    world.now += 1
    world.agent("remote", tool, 1)
    lag = data.draw(st.integers(0, 1_000_000))
    remote = [_earlier(span, lag) if span.source is not GATEWAY else span for span in world.spans[before:]]
    world.spans[before:] = remote
    world.add(tool, TOOL, ADAPTER, start, parent_id=agent)
    world.now += GAP
    world.call("root", agent)
    world.add(agent, AGENT, ADAPTER, 0, agent="root")
    found = trajectory(world.episode(rng)).transitions
    told = [one.tokens.response_ids[0] for one in found if one.tokens]
    assert (told[0], told[-1]) == (1, len(world.calls))
    assert sorted(told) == sorted(token for token, _ in world.calls)


def _earlier(span: Span, lag: int) -> Span:
    return msgspec.structs.replace(span, start_ns=span.start_ns - lag, end_ns=span.end_ns - lag)


@settings(max_examples=60, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(st.data(), st.randoms(use_true_random=False))
def test_joining_again_changes_nothing_and_the_order_of_arrival_neither(
    data: st.DataObject, rng: random.Random
) -> None:
    world = World(data)
    world.agent("root", None, 2)
    episode = world.episode(rng)
    once = run(episode, upto="join").episodes
    assert run(*once, upto="join").episodes == once
    mixed = list(episode.spans)
    rng.shuffle(mixed)
    again = run(msgspec.structs.replace(episode, spans=tuple(mixed)), upto="order")
    by_id = {span.span_id: msgspec.structs.replace(span, sequence=0) for span in again.episodes[0].spans}
    expected = run(episode, upto="order").episodes[0].spans
    assert by_id == {span.span_id: msgspec.structs.replace(span, sequence=0) for span in expected}


def test_a_request_between_the_framework_and_the_gateway_is_no_obstacle() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER, agent="writer")
    request = build.span(OTHER, name="POST", source=OTLP, parent=outer)
    build.call([1], [2], parent=request)
    (call, post) = run(build.build(), upto="join").episodes[0].spans
    assert (call.span_id, call.agent, len(call.tokens)) == (outer, "writer", 1)
    assert post.parent_id == outer


def test_a_tool_that_calls_a_model_is_another_call_than_the_one_around_it() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER)
    tool = build.span(TOOL, source=ADAPTER, parent=outer)
    inner = build.call([1], [2], parent=tool)
    assert [span.span_id for span in run(build.build(), upto="join").episodes[0].spans] == [
        outer,
        tool,
        inner,
    ]


def test_frameworks_on_top_of_each_other_are_one_call_without_a_gateway_too() -> None:
    build = EpisodeBuilder()
    said: dict[str, Json] = {semconv.OUTPUT_MESSAGES: ["exact"]}
    outer = build.span(CHAT, name="chain.llm", source=OTLP, attributes={semconv.OUTPUT_MESSAGES: ["about"]})
    failed = build.span(CHAT, name="sdk.chat", source=OTLP, parent=outer, status=SpanStatus.ERROR)
    build.span(CHAT, name="sdk.chat", source=OTLP, parent=outer, attributes=said)
    call, other = run(build.build(), upto="join").episodes[0].spans
    assert (call.span_id, call.name, call.attributes) == (outer, "chain.llm", said)
    assert other.span_id == failed


def test_calls_at_once_that_a_server_gave_one_id_stay_two() -> None:
    build = EpisodeBuilder()
    for _ in range(2):
        build.span(CHAT, name="sdk.chat", source=OTLP, start_ns=1, attributes={semconv.RESPONSE_ID: "same"})
    assert len(run(build.build(), upto="join").episodes[0].spans) == 2


def test_a_completion_of_a_framework_and_the_gateway_s_record_of_it_are_one_call() -> None:
    build = EpisodeBuilder()
    outer = build.span(semconv.OPERATION_COMPLETION, source=ADAPTER)
    build.call([1], [2], parent=outer)
    (call,) = run(build.build(), upto="join").episodes[0].spans
    assert (call.span_id, call.operation, len(call.tokens)) == (outer, CHAT, 1)


def test_the_temperature_is_the_one_that_the_gateway_asked_the_model_for() -> None:
    build = EpisodeBuilder()
    asked, sampled = ({semconv.REQUEST_TEMPERATURE: value} for value in (0.0, 1.0))
    outer = build.span(CHAT, source=ADAPTER, attributes=dict(asked))
    record = TokenRecord.pack([1], [2], [-0.5], version=0)
    build.span(CHAT, source=GATEWAY, parent=outer, attributes=dict(sampled), tokens=(record,))
    (call,) = run(build.build(), upto="join").episodes[0].spans
    assert call.attributes == sampled


def test_a_failed_try_is_not_the_call_of_a_framework_that_knows_no_response_id() -> None:
    build = EpisodeBuilder()
    outer = build.span(CHAT, source=ADAPTER)
    build.call([1], [], parent=outer, status=SpanStatus.ERROR)
    build.call([1], [2], parent=outer, response_id="chatcmpl-1")
    (call, _) = run(build.build(), upto="join").episodes[0].spans
    assert (call.span_id, call.status, len(call.tokens)) == (outer, SpanStatus.OK, 1)


def test_a_long_line_of_operations_is_walked_once() -> None:
    build = EpisodeBuilder()
    parent = build.span(CHAT, source=ADAPTER)
    for _ in range(3_000):
        parent = build.span(OTHER, parent=parent)
    build.call([1], [2], parent=parent)
    (found,) = [span for span in run(build.build(), upto="join").episodes[0].spans if span.tokens]
    assert found.span_id == f"{1:016x}"
