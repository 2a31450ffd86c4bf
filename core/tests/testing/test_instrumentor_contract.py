"""The OpenAI SDK's instrumentor passes the contract; one that breaks a promise fails the test of that promise."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from agentlightning import semconv
from agentlightning.testing import InstrumentorContract

adapters = pytest.importorskip("lightning_adapter_openai")


class Contract(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_openai"
    dependencies: ClassVar[tuple[str, ...]] = ("openai >= 2, < 4",)
    expected: ClassVar[dict[str, str]] = {"chat m": semconv.INPUT_MESSAGES}
    replies: ClassVar[tuple[Any, ...]] = ()
    program: ClassVar[str] = """
import openai
client = openai.OpenAI(base_url=base_url, api_key="k")
client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
"""

    def make_adapter(self) -> Any:
        return adapters.OpenAIAdapter()


class TestWhole(Contract):
    """An instrumentor that keeps its promises."""


class Silent(Contract):
    expected: ClassVar[dict[str, str]] = {"execute_tool add": ""}


class Talkative(Contract):
    expected: ClassVar[dict[str, str]] = {"chat m": semconv.REQUEST_MODEL}


class Outdated(Contract):
    dependencies: ClassVar[tuple[str, ...]] = ("openai >= 1, < 2",)


class Selfish(Contract):
    def make_adapter(self) -> Any:
        class Adapter(adapters.OpenAIAdapter):  # type: ignore[misc, name-defined]
            def uninstrument(self) -> None:
                adapters.OpenAIInstrumentor().uninstrument()

        return Adapter()


def test_an_instrumentor_that_leaves_no_spans_fails() -> None:
    with pytest.raises(AssertionError):
        Silent().test_it_works_without_an_adapter("true")
    with pytest.raises(AssertionError):
        Silent().test_it_works_under_opentelemetry_instrument()


def test_an_instrumentor_that_records_what_nobody_wants_recorded_fails() -> None:
    with pytest.raises(AssertionError):
        Talkative().test_it_works_without_an_adapter("")


def test_an_instrumentor_for_other_versions_fails() -> None:
    with pytest.raises(AssertionError):
        Outdated().test_its_entry_point_is_its_class()


def test_an_adapter_that_ends_what_others_began_fails() -> None:
    with pytest.raises(AssertionError):
        Selfish().test_an_instrumentation_of_the_users_own_outlives_the_adapter()
