"""Observers are isolated from each other and from the run."""

import pytest

from agentlightning.observer import Event, Observers, PhaseStarted


class Recording:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def notify(self, event: Event) -> None:
        self.calls += 1
        raise ValueError("listener is broken")


def test_a_failing_observer_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    failing, recording = Failing(), Recording()
    observers = Observers([failing, recording])
    observers.notify(PhaseStarted(name="one"))
    observers.notify(PhaseStarted(name="two"))
    assert [event.name for event in recording.events if isinstance(event, PhaseStarted)] == ["one", "two"]
    assert failing.calls == 1
    assert "left out" in caplog.text
