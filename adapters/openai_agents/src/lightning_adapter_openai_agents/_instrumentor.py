"""The OpenTelemetry instrumentor of the OpenAI Agents SDK, whose own traces are its source."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv


class OpenAIAgentsInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Makes OpenTelemetry spans of the SDK's own of agents, tools, handoffs and guardrails.

    While it is at work no trace goes to the vendor; other processors of traces go on getting theirs.
    """

    _undo: ExitStack

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the SDK that it knows."""
        return ("openai-agents >= 0.24, < 0.25",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        import agents.run
        from agents.agent import AgentBase
        from agents.run_internal import run_loop
        from agents.sandbox import runtime
        from agents.tool_context import ToolContext
        from agents.tracing import setup
        from agents.tracing.spans import SpanImpl

        from lightning_adapter_openai.patches import replace, wrap
        from lightning_adapter_openai_agents import _binding, _models, _processor, _provider
        from lightning_adapter_openai_agents._scope import SCOPE

        undo = ExitStack()
        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        processor = _processor.Processor(tracer)
        wrap(undo, SpanImpl, "set_error", processor.set_error)
        provider = _provider.Provider(setup.get_trace_provider(), processor)
        replace(undo, setup, "GLOBAL_TRACE_PROVIDER", provider)
        bindings = _binding.Bindings()
        for module in (agents.run, run_loop, runtime):
            replace(undo, module, "bind_public_agent", bindings.bind_agent)
        replace(undo, run_loop, "get_model", _binding.over_http(run_loop.get_model))
        wrap(undo, AgentBase, "get_all_tools", _binding.get_all_tools)
        wrap(undo, ToolContext, "from_agent_context", _processor.from_agent_context)
        _models.Models(tracer).wrap_all(undo)
        self._undo = undo

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()
