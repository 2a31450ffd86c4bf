"""The OpenTelemetry instrumentor of AutoGen, which makes spans itself: they are led on, and made complete."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import TracerProvider

from agentlightning import semconv


class AutoGenInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Leads the framework's own spans of agents and tools to a tracer provider, with what they leave out.

    That is arguments and results of tools, spans of memory and of managers that choose speakers, and spans of model
    calls that no SDK's adapter records.
    """

    _undo: ExitStack

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of the framework that it knows."""
        return ("autogen-agentchat >= 0.7.5, < 0.8",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        from autogen_agentchat.agents import AssistantAgent
        from autogen_agentchat.teams._group_chat._sequential_routed_agent import SequentialRoutedAgent
        from autogen_core import BaseAgent
        from autogen_core._telemetry import _genai
        from autogen_core.tools import BaseTool
        from autogen_core.tools._base import BaseStreamTool

        from lightning_adapter_autogen import _agents, _clients, _spans, _tools
        from lightning_adapter_autogen._scope import SCOPE
        from lightning_adapter_openai.patches import replace, wrap

        undo = ExitStack()
        tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
        replace(undo, _genai, "trace", _spans.Trace(tracer_provider))
        wrap(undo, BaseTool, "run_json", _tools.run_json)
        wrap(undo, BaseStreamTool, "run_json_stream", _tools.run_json_stream)
        wrap(undo, AssistantAgent, "_execute_tool_call", _tools.execute_tool_call)
        wrap(undo, AssistantAgent, "on_messages", _agents.on_messages)
        wrap(undo, AssistantAgent, "on_messages_stream", _agents.on_messages_stream)
        wrap(undo, AssistantAgent, "_update_model_context_with_memory", _agents.remembering(tracer))
        wrap(undo, SequentialRoutedAgent, "on_message_impl", _agents.on_message)
        wrap(undo, BaseAgent, "on_message", _agents.on_core_message)
        _clients.Clients(tracer).wrap_all(undo)
        self._undo = undo

    def _uninstrument(self, **_: object) -> None:
        self._undo.close()
