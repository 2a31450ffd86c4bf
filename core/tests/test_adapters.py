"""What adapters are built on: capture once, refusals that say what is accepted, and what takes a tunable's place."""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.adapters import InstrumentorAdapter, SdkAdapter, resource_of
from agentlightning.agents import unknown_agent
from agentlightning.calling import conversation, output_data
from agentlightning.capture import RolloutContext
from agentlightning.errors import ConfigError, TargetError
from agentlightning.types import Mode, ModelEndpoint, PromptTemplate


class CountingInstrumentor:
    """An instrumentor that remembers what was asked of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_instrumented_by_opentelemetry = False

    def instrument(self, *, tracer_provider: TracerProvider) -> None:
        self.told.append("on")
        self.is_instrumented_by_opentelemetry = True

    def uninstrument(self) -> None:
        self.told.append("off")
        self.is_instrumented_by_opentelemetry = False


class ToyAdapter(SdkAdapter):
    name = "toy"
    sdk: ClassVar[str] = "Toy SDK"


class DateAdapter(InstrumentorAdapter):
    name = "dates"
    accepted = ("datetime:date", "datetime:time")


def test_capture_starts_from_below_and_ends_from_above() -> None:
    log: list[str] = []

    class Noting(CountingInstrumentor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def instrument(self, *, tracer_provider: TracerProvider) -> None:
            super().instrument(tracer_provider=tracer_provider)
            log.append(f"{self.name} on")

        def uninstrument(self) -> None:
            super().uninstrument()
            log.append(f"{self.name} off")

    below, above = Noting("below"), Noting("above")
    adapter = DateAdapter(lambda: above, below=(ToyAdapter(lambda: below),))
    provider = TracerProvider()
    adapter.instrument(provider)
    adapter.instrument(provider)
    adapter.uninstrument()
    adapter.uninstrument()
    assert log == ["below on", "above on", "above off", "below off"]


def test_what_somebody_else_has_instrumented_stays_so() -> None:
    instrumentor = CountingInstrumentor()
    instrumentor.is_instrumented_by_opentelemetry = True
    adapter = DateAdapter(lambda: instrumentor)
    adapter.instrument(TracerProvider())
    adapter.uninstrument()
    assert instrumentor.told == []
    assert instrumentor.is_instrumented_by_opentelemetry


def test_objects_of_the_accepted_classes_are_accepted() -> None:
    adapter = DateAdapter(CountingInstrumentor)
    assert adapter.accepts(date(2024, 1, 1))
    assert not adapter.accepts("2024-01-01")


def test_an_sdk_has_no_agents() -> None:
    adapter = ToyAdapter(CountingInstrumentor)
    agent = object()
    context = RolloutContext(rollout_id="r", attempt_id="a", mode=Mode.TRAIN, sink=None)  # type: ignore[arg-type]
    assert not adapter.accepts(agent)
    assert adapter.tunables(agent) == []
    with adapter.bind(agent, context) as bound:
        assert bound is agent
    with pytest.raises(TargetError, match="no agent of the Toy SDK, which has none; train a function"):
        adapter.as_function(agent)


def test_an_unknown_agent_is_refused_with_what_each_adapter_accepts() -> None:
    adapters: list[Any] = [ToyAdapter(CountingInstrumentor), DateAdapter(CountingInstrumentor)]
    assert "Installed adapters accept dates: date, time; toy: functions." in str(unknown_agent(3, adapters))
    assert "Installed adapters accept nothing, as there are none." in str(unknown_agent(3, []))


def test_a_resource_takes_a_tunables_place_if_it_is_of_its_kind() -> None:
    prompt = PromptTemplate(template="new")
    assert resource_of({"a.prompt": prompt}, "a.prompt", PromptTemplate) is prompt
    assert resource_of({"a.prompt": prompt}, "b.prompt", PromptTemplate) is None
    with pytest.raises(ConfigError, match=r"'a\.prompt' must be a ModelEndpoint, found PromptTemplate"):
        resource_of({"a.prompt": prompt}, "a.prompt", ModelEndpoint)


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(MESSAGE, min_size=1))
def test_messages_are_asked_as_they_are(messages: list[Any]) -> None:
    assert conversation(messages) == conversation({"messages": messages, "more": 1}) == messages


@given(JSON)
def test_every_task_is_a_text_or_messages(task: Any) -> None:
    asked = conversation(task)
    if isinstance(asked, str):
        assert asked == task or not isinstance(task, str)
    else:
        assert asked
        assert all("role" in one for one in asked)


@given(JSON)
def test_plain_data_is_its_own_output(value: Any) -> None:
    assert output_data(value) == value


def test_objects_in_outputs_are_data_or_texts() -> None:
    class Model:
        def model_dump(self, *, mode: str) -> dict[str, str]:
            return {"mode": mode}

    class Opaque:
        def __str__(self) -> str:
            return "opaque"

    @dataclasses.dataclass
    class Answer:
        model: Model
        rest: tuple[Opaque, ...]

    assert output_data(Answer(Model(), (Opaque(),))) == {"model": {"mode": "json"}, "rest": ("opaque",)}
    assert output_data(Opaque(), convert=lambda _: 1) == 1
