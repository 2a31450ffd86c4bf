"""The generated adapter passes the contract of frameworks; each broken one fails exactly the test of what it breaks."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning import semconv
from agentlightning.agents import TunableKind
from agentlightning.cli._new import write_package
from agentlightning.testing import FrameworkContract
from agentlightning.testing._adapter_contract import ListSink
from agentlightning.types import Span, SpanStatus

pytest.importorskip("lightning_adapter_openai")
CHECKS = sorted(name for name in vars(FrameworkContract) if name.startswith("test_"))
HOOKS = "test_hooks_import_nothing_of_the_framework"
Flaw = Callable[[Span, Sequence[Span]], Span | None]
MODULES = ("toyland", "test_contract", "lightning_adapter_toyland")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The test module of a generated adapter."""
    folder = tmp_path_factory.mktemp("generated")
    write_package("adapter", "toyland", folder=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "src"))
        patch.syspath_prepend(str(folder / "tests"))
        yield importlib.import_module("test_contract")
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]


async def failures(
    generated: Any,
    *,
    adapter: Callable[[type], type] = lambda kind: kind,
    flaw: Flaw | None = None,
    hooks: str = "",
) -> list[str]:
    contract = generated.TestToylandAdapter()
    broken = adapter(generated.ToylandAdapter)
    contract.make_adapter = broken
    failed = []
    with flawed(flaw), pytest.MonkeyPatch.context() as patch:
        if hooks:
            patch.setattr(type(contract), "hooks", hooks)
        for name in CHECKS:
            if name == HOOKS and not hooks:
                continue
            try:
                outcome = getattr(contract, name)()
                if inspect.isawaitable(outcome):
                    await outcome
            except (AssertionError, KeyError, ValueError):
                failed.append(name)
    return failed


@contextmanager
def flawed(flaw: Flaw | None) -> Iterator[None]:
    """Adapters make spans with a flaw: it gets a span and those that ended before it."""
    add = ListSink.add

    def add_flawed(sink: ListSink, span: Span) -> None:
        changed = flaw(span, sink.spans) if flaw else span
        if changed is not None:
            add(sink, changed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ListSink, "add", add_flawed)
        yield


def replaced(span: Span, **changes: Any) -> Span:
    return msgspec.structs.replace(span, **changes)


def is_agent(span: Span, name: str) -> bool:
    return span.operation == semconv.OPERATION_AGENT and span.agent == name


def nameless_without_tools(span: Span, before: Sequence[Span]) -> Span:
    used = any(one.operation == semconv.OPERATION_TOOL for one in before)
    if not is_agent(span, "assistant") or used:
        return span
    attributes = {key: value for key, value in span.attributes.items() if key != semconv.AGENT_NAME}
    return replaced(span, agent=None, attributes=attributes)


def tools_without_results(span: Span, before: Sequence[Span]) -> Span:
    return replaced(span, attributes=span.attributes | {semconv.TOOL_CALL_RESULT: ""})


def tools_without_errors(span: Span, before: Sequence[Span]) -> Span:
    return replaced(span, error=None) if span.operation == semconv.OPERATION_TOOL else span


def one_agent_for_all(span: Span, before: Sequence[Span]) -> Span:
    return replaced(span, agent="planner") if is_agent(span, "writer") else span


def out_of_order(span: Span, before: Sequence[Span]) -> Span:
    again = any(one.parent_id == span.parent_id and one.operation == semconv.OPERATION_CHAT for one in before)
    return replaced(span, start_ns=0) if span.operation == semconv.OPERATION_CHAT and again else span


def first_run_takes_all_tools(span: Span, before: Sequence[Span]) -> Span:
    return replaced(span, parent_id=before[0].parent_id) if span.operation == semconv.OPERATION_TOOL else span


def open_after_cancellation(span: Span, before: Sequence[Span]) -> Span | None:
    cancelled = any(semconv.CANCELLED in one.attributes for one in before)
    return None if cancelled and is_agent(span, "assistant") else span


def agents_without_errors(span: Span, before: Sequence[Span]) -> Span:
    return replaced(span, status=SpanStatus.UNSET) if is_agent(span, "assistant") else span


@pytest.mark.parametrize(
    ("flaw", "check"),
    [
        (nameless_without_tools, "test_a_call_is_below_its_agent"),
        (tools_without_results, "test_a_tools_use_is_a_span"),
        (tools_without_errors, "test_a_failed_tool_says_why"),
        (one_agent_for_all, "test_a_teams_calls_belong_to_the_agent_that_made_them"),
        (out_of_order, "test_each_call_is_joined_with_its_request_once"),
        (first_run_takes_all_tools, "test_runs_of_one_agent_at_once_keep_their_calls"),
        (open_after_cancellation, "test_a_cancelled_agents_spans_end"),
        (agents_without_errors, "test_an_agents_exception_comes_out_as_it_is"),
    ],
)
async def test_an_adapter_with_flawed_spans_fails_exactly_its_test(
    generated: Any, flaw: Flaw, check: str
) -> None:
    assert await failures(generated, flaw=flaw) == [check]


def picky(kind: Any) -> type:
    class Broken(kind):
        def accepts(self, agent: object) -> bool:
            return False

    return Broken


def unstable_names(kind: Any) -> type:
    class Broken(kind):
        def tunables(self, agent: object) -> Any:
            return [
                replaced(one, name=f"{id(agent)}") if one.kind is TunableKind.MODEL else one
                for one in super().tunables(agent)
            ]

    return Broken


def wrong_values(kind: Any) -> type:
    class Broken(kind):
        def tunables(self, agent: object) -> Any:
            return [
                replaced(one, value="?") if one.kind is TunableKind.TOOL_DESCRIPTION else one
                for one in super().tunables(agent)
            ]

    return Broken


def prompts_only(kind: Any) -> type:
    class Broken(kind):
        @contextmanager
        def bind(self, agent: object, context: Any) -> Iterator[object]:
            with super().bind(agent, context) as bound:
                for mine, theirs in zip(
                    getattr(bound, "tools", ()), getattr(agent, "tools", ()), strict=True
                ):
                    mine.description = theirs.description
                yield bound

    return Broken


def in_place(kind: Any) -> type:
    class Broken(kind):
        @contextmanager
        def bind(self, agent: Any, context: Any) -> Iterator[object]:
            with super().bind(agent, context) as bound:
                kept, vars(agent)["prompt"] = getattr(agent, "prompt", ""), getattr(bound, "prompt", "")
                try:
                    yield bound
                finally:
                    vars(agent)["prompt"] = kept

    return Broken


def leaving_traces(after: type[BaseException] | None) -> Callable[[Any], type]:
    def broken(kind: Any) -> type:
        class Broken(kind):
            @contextmanager
            def bind(self, agent: Any, context: Any) -> Iterator[object]:
                error: BaseException | None = None
                try:
                    with super().bind(agent, context) as bound:
                        yield bound
                except BaseException as raised:
                    error = raised
                    raise
                finally:
                    if isinstance(error, after) if after else error is None:
                        for tool in getattr(agent, "tools", ()):
                            tool.description = "somebody else's"

        return Broken

    return broken


def translating(kind: Any) -> type:
    class Broken(kind):
        def as_function(self, agent: object) -> Any:
            function = super().as_function(agent)

            async def call(task: Any) -> Any:
                try:
                    return await function(task)
                except Exception as error:
                    raise RuntimeError(str(error)) from error

            return call

    return Broken


def eager(kind: Any) -> type:
    class Broken(kind):
        def instrument(self, tracer_provider: Any) -> None:
            super().instrument(tracer_provider)
            self.provider = tracer_provider

        def as_function(self, agent: object) -> Any:
            super().instrument(self.provider)
            return super().as_function(agent)

    return Broken


@pytest.mark.parametrize(
    ("adapter", "check"),
    [
        (picky, "test_its_agents_are_accepted"),
        (unstable_names, "test_tunables_have_stable_unique_names"),
        (wrong_values, "test_tunables_have_the_values_of_the_agent"),
        (prompts_only, "test_prompts_of_a_rollout_reach_its_model"),
        (in_place, "test_prompts_of_concurrent_rollouts_do_not_mix"),
        (leaving_traces(None), "test_an_agent_is_itself_after_a_rollout"),
        (leaving_traces(Exception), "test_an_agent_is_itself_after_a_failure"),
        (leaving_traces(asyncio.CancelledError), "test_an_agent_is_itself_after_a_cancellation"),
        (translating, "test_an_agents_exception_comes_out_as_it_is"),
        (eager, "test_agents_leave_no_spans_without_the_adapter"),
    ],
)
async def test_a_broken_adapter_fails_exactly_its_test(
    generated: Any, adapter: Callable[[Any], type], check: str
) -> None:
    assert await failures(generated, adapter=adapter) == [check]


async def test_hooks_that_import_the_framework_fail(generated: Any, tmp_path: Path) -> None:
    (tmp_path / "hasty_hooks.py").write_text(
        "import toyland\nfrom lightning_adapter_toyland.hooks import *\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert await failures(generated, hooks="hasty_hooks") == [HOOKS]


async def test_the_generated_adapter_passes(generated: Any) -> None:
    assert await failures(generated, hooks="lightning_adapter_toyland.hooks") == []
