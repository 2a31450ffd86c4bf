"""The callback handler that turns LangChain's runs into spans."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry import baggage
from opentelemetry.trace import SpanKind, Tracer

from agentlightning import semconv
from agentlightning.capture.model_call import describe
from lightning_adapter_langchain import _describe
from lightning_adapter_langchain._graphs import agent_name, entered, graph_of_node, is_agent, is_branch, place
from lightning_adapter_langchain._models import opened, recorded_below
from lightning_adapter_langchain._reader import ChainEnd, ChainStart, GraphReader
from lightning_adapter_langchain._runs import Run, Runs, enter

_PLUMBING_KINDS: Final = frozenset({"prompt", "parser"})
_PLUMBING_NAMES: Final = "Runnable"
_HIDDEN: Final = "langsmith:hidden"
_Metadata = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Told:
    """Whether a run's span has content."""

    content: bool


class SpanHandler(BaseCallbackHandler):
    """Makes spans of agents, tools, retrievals, chains, and of models that no SDK's adapter records.

    It runs inline: in the thread and the context of the code that it is told of.

    Args:
        tracer: Makes the spans.
        content: Whether content is recorded outside of rollouts; inside it always is.
        readers: What else is told of chains.
    """

    run_inline = True

    def __init__(self, tracer: Tracer, *, content: bool, readers: Sequence[GraphReader]) -> None:
        self.runs = Runs()
        self._tracer = tracer
        self._content = content
        self._readers = readers

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_type: str | None = None,
        name: str | None = None,
        **_: object,
    ) -> None:
        """A chain, graph or node starts."""
        del serialized, inputs
        run = self.runs.start(run_id, parent_run_id)
        found = tuple(tags or ())
        above = run.parent.facts if run.parent else None
        above = above if isinstance(above, ChainStart) else None
        start = ChainStart(
            name=name or "chain",
            kind=run_type or "",
            tags=found,
            metadata=metadata or {},
            graph=entered(),
            inside=graph_of_node(name, found, metadata or {}, above=above),
            root=run.parent is None,
            branch=above is not None and above.inside is not None and is_branch(found),
        )
        run.facts = start
        if not _is_plumbing(start):
            attributes = _chain(start)
            for reader in self._readers:
                attributes |= reader.attributes(start)
            operation = attributes[semconv.OPERATION]
            title = f"{operation} {start.name}" if operation == semconv.OPERATION_AGENT else start.name
            self._record(run, title, attributes)

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: object) -> None:
        """A chain returned."""
        self._chain_ended(run_id, output=outputs, error=None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """A chain raised."""
        self._chain_ended(run_id, output=None, error=error)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **_: object,
    ) -> None:
        """A tool is called."""
        run = self.runs.start(run_id, parent_run_id)
        attributes = _describe.tool_asked(
            serialized or {}, text=input_str, inputs=inputs, call_id=tool_call_id, content=self._told(run)
        )
        self._record(run, f"{semconv.OPERATION_TOOL} {attributes[semconv.TOOL_NAME]}", attributes)
        self._watch(run)

    def on_tool_end(self, output: object, *, run_id: UUID, **_: object) -> None:
        """A tool returned."""
        content = self._has_content(run_id)
        self.runs.end(run_id, attributes=lambda: _describe.tool_answered(output, content=content))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """A tool raised."""
        self.runs.end(run_id, error=error)

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        name: str | None = None,
        **_: object,
    ) -> None:
        """A retriever is asked."""
        del serialized
        run = self.runs.start(run_id, parent_run_id)
        attributes = _describe.retrieval_asked(query, content=self._told(run))
        title = f"{semconv.OPERATION_RETRIEVAL} {name or ''}".rstrip()
        self._record(run, title, attributes, kind=SpanKind.CLIENT)

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **_: object) -> None:
        """A retriever returned."""
        content = self._has_content(run_id)
        self.runs.end(run_id, attributes=lambda: _describe.retrieval_answered(documents, content=content))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """A retriever raised."""
        self.runs.end(run_id, error=error)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """A chat model is asked."""
        del serialized
        run = self.runs.start(run_id, parent_run_id)
        door = opened()
        if not recorded_below(door.model if door else None, (metadata or {}).get("ls_provider")):
            params = invocation_params or {}
            self._ask(run, params, metadata, operation=semconv.OPERATION_CHAT)
            if run.span is not None and self._told(run):
                describe(run.span, lambda: _describe.asked_content(messages[0], params))
        if door is not None and door.alone:
            enter(run)
        if door is not None and door.whole:
            self._watch(run)

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """A model of plain text is asked."""
        del serialized
        run = self.runs.start(run_id, parent_run_id)
        if recorded_below(None, (metadata or {}).get("ls_provider")):
            return
        self._ask(run, invocation_params or {}, metadata, operation=semconv.OPERATION_COMPLETION)
        if run.span is not None and self._told(run):
            describe(run.span, lambda: _describe.prompted_content(prompts))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: object) -> None:
        """A model answered."""
        content = self._has_content(run_id)
        self.runs.end(run_id, attributes=lambda: _describe.answered(response, content=content))

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: object = None, **_: object
    ) -> None:
        """A model failed, or its stream was left."""
        content = self._has_content(run_id)
        has_answer = isinstance(response, LLMResult) and any(response.generations)
        self.runs.end(
            run_id,
            error=error,
            attributes=(lambda: _describe.answered(response, content=content)) if has_answer else None,
        )

    def _ask(self, run: Run, params: Mapping[str, Any], metadata: _Metadata, *, operation: str) -> None:
        attributes = _describe.asked(params, metadata or {}, operation=operation)
        title = f"{operation} {_describe.model_name(params, metadata or {})}".rstrip()
        self._record(run, title, attributes, kind=SpanKind.CLIENT)

    def _record(
        self, run: Run, title: str, attributes: Mapping[str, Any], *, kind: SpanKind = SpanKind.INTERNAL
    ) -> None:
        span = self._tracer.start_span(title, run.outer, kind=kind, attributes=attributes)
        self.runs.record(run, span)

    def _watch(self, run: Run) -> None:
        run.watch(lambda: self.runs.end(run.ident, error=asyncio.CancelledError()))

    def _chain_ended(self, run_id: UUID, *, output: object, error: BaseException | None) -> None:
        run = self.runs.get(run_id)
        if run is not None and isinstance(run.facts, ChainStart):
            end = ChainEnd(start=run.facts, output=output, error=error, context=run.context)
            for reader in self._readers:
                reader.ended(end)
        self.runs.end(run_id, error=error)

    def _told(self, run: Run) -> bool:
        """Whether content is recorded in this run, which is then known to its end."""
        content = self._content or baggage.get_baggage(semconv.ROLLOUT_ID, run.outer) is not None
        run.facts = _Told(content)
        return content

    def _has_content(self, run_id: UUID) -> bool:
        run = self.runs.get(run_id)
        return run is not None and isinstance(run.facts, _Told) and run.facts.content


def _is_plumbing(start: ChainStart) -> bool:
    """Whether a chain is but a part of what LangChain puts together: what runs inside belongs to what is around."""
    if start.root or start.graph is not None or start.inside is not None:
        return False
    plain = start.kind in _PLUMBING_KINDS or start.name.startswith(_PLUMBING_NAMES)
    return plain or start.branch or _HIDDEN in start.tags


def _chain(start: ChainStart) -> dict[str, str]:
    if start.graph is not None and is_agent(start.graph):
        name = agent_name(start.graph)
        named = {semconv.AGENT_NAME: name} if name else {}
        return {semconv.OPERATION: semconv.OPERATION_AGENT, **named}
    found = {semconv.OPERATION: semconv.OPERATION_OTHER}
    if start.inside is not None:
        found[semconv.LOCATION] = place(start.metadata, start.name)
    return found
