"""The OpenTelemetry instrumentor of LangGraph: it adds to the spans of LangChain's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv
from lightning_adapter_langchain import LangChainInstrumentor
from lightning_adapter_openai.patches import wrap

if TYPE_CHECKING:
    from lightning_adapter_langgraph._decisions import Decisions

SCOPE: Final = "lightning_adapter_langgraph"


class LangGraphInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Names the agents of graphs, and records branches and handoffs as decisions.

    Spans of graphs and nodes are those of `LangChainInstrumentor`, without which nothing is recorded.
    """

    _decisions: Decisions
    _undo: ExitStack

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of LangGraph that it knows."""
        return ("langgraph >= 1.1.5, < 2",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        from langgraph.graph._branch import BranchSpec

        from lightning_adapter_langgraph._decisions import Decisions

        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        self._decisions = decisions = Decisions(tracer)
        LangChainInstrumentor.readers.append(decisions)

        def finish(
            method: Callable[..., Any], branch: BranchSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> object:
            result = args[2] if len(args) > 2 else kwargs["result"]
            config = args[3] if len(args) > 3 else kwargs["config"]
            found = method(*args, **kwargs)
            node = str((config.get("metadata") or {}).get("langgraph_node", ""))
            inside = LangChainInstrumentor().context_of(config)
            decisions.branched(branch, result, node=node, inside=inside)
            return found

        self._undo = ExitStack()
        wrap(self._undo, BranchSpec, "_finish", finish)

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()
        LangChainInstrumentor.readers.remove(self._decisions)
