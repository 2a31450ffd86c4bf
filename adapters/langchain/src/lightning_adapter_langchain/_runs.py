"""LangChain's runs under way, their spans, and the OpenTelemetry context inside of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from agentlightning.capture.model_call import describe, failed

_RUN: Final = "agl-langchain-run"
_CONTROL_FLOW: Final = "GraphBubbleUp"
"""LangGraph's base of what is raised to interrupt a graph, or to hand over to its parent."""


class Run:
    """One run.

    Attributes:
        span: Its span; None where a run is no span of its own.
        context: What is current in the code that it runs.
        outer: What was current where it started.
        facts: What who started it wants to know when it ends.
    """

    def __init__(self, ident: UUID, parent: Run | None, *, outer: Context, facts: object) -> None:
        self.ident = ident
        self.parent = parent
        self.outer = self.context = outer
        self.span: Span | None = None
        self.children: dict[UUID, Run] = {}
        self.facts = facts
        self._forget: Callable[[], object] | None = None

    def watch(self, abandoned: Callable[[], object]) -> None:
        """Calls `abandoned` with the end of the current task: LangChain tells nobody of what is cancelled."""
        with suppress(RuntimeError):  # no event loop: nothing is cancelled
            if (task := asyncio.current_task()) is not None:

                def done(_: object) -> None:
                    abandoned()

                task.add_done_callback(done)
                self._forget = lambda: task.remove_done_callback(done)

    def unwatch(self) -> None:
        """Takes `watch` back."""
        if self._forget is not None:
            self._forget()


class Runs:
    """All runs under way, by LangChain's ids."""

    def __init__(self) -> None:
        self._open: dict[UUID, Run] = {}

    def start(self, ident: UUID, parent_id: UUID | None, *, facts: object = None) -> Run:
        """Takes a run on, below its parent.

        Inside of its parent's code the current context is the one: there may be spans of the agent's own in it. A run
        that was started elsewhere with its parent's configuration, as in a thread, gets the one of its parent.
        """
        parent = self.get(parent_id)
        here = otel_context.get_current()
        outer = here if parent is None or here.get(_RUN) is parent else parent.context
        run = self._open[ident] = Run(ident, parent, outer=outer, facts=facts)
        run.context = otel_context.set_value(_RUN, run, outer)
        if parent is not None:
            parent.children[ident] = run
        return run

    def get(self, ident: UUID | None) -> Run | None:
        """A run under way."""
        return None if ident is None else self._open.get(ident)

    def record(self, run: Run, span: Span) -> None:
        """Gives a run its span."""
        run.span = span
        run.context = trace.set_span_in_context(span, run.context)

    def end(
        self,
        ident: UUID,
        *,
        error: BaseException | None = None,
        attributes: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """Lets a run go, and what is left of the runs inside of it, which were cancelled."""
        run = self._open.pop(ident, None)
        if run is None:
            return
        run.unwatch()
        if run.parent is not None:
            run.parent.children.pop(ident, None)
        for child in list(run.children):
            self.end(child, error=asyncio.CancelledError())
        if run.span is not None:
            if attributes is not None and run.span.is_recording():
                describe(run.span, attributes)
            _finish(run.span, error)

    def clear(self) -> None:
        """Ends everything."""
        for ident in list(self._open):
            self.end(ident, error=asyncio.CancelledError())


def enter(run: Run) -> None:
    """Makes a run's context current in a copied `contextvars` context, which is thrown away with the run's code."""
    if otel_context.get_value(_RUN) is not run:
        otel_context.attach(run.context)


def _finish(span: Span, error: BaseException | None) -> None:
    if error is not None and not is_control_flow(error):
        failed(span, error)
    span.end()


def is_control_flow(error: BaseException) -> bool:
    """Whether a graph raises it to lead its own flow: nothing has failed."""
    return any(kind.__name__ == _CONTROL_FLOW for kind in type(error).__mro__)
