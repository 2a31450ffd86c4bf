"""The OpenTelemetry instrumentor of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.trace import Tracer, TracerProvider

from agentlightning import semconv
from agentlightning.capture.content import wanted
from agentlightning.capture.instrumentations import is_wrapped
from lightning_adapter_openai.patches import Wrapper, wrap

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler
    from opentelemetry.context import Context

    from lightning_adapter_langchain._handler import SpanHandler
    from lightning_adapter_langchain._reader import GraphReader

SCOPE: Final = "lightning_adapter_langchain"


class LangChainInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records LangChain's runs as spans, from its own callbacks.

    What is wrapped are the places where LangChain enters a run's code, so that the run's span is current there and
    nowhere else, and the doors of chat models and prompts, where a rollout's texts are put in.

    Attributes:
        readers: What is told of chains too, by whichever instrumentor builds on this one.
    """

    readers: ClassVar[list[GraphReader]] = []

    _hook: ContextVar[BaseCallbackHandler | None] | None = None
    _handler: SpanHandler | None = None
    _undo: ExitStack

    def context_of(self, config: Mapping[str, Any]) -> Context | None:
        """The OpenTelemetry context inside of the run that a configuration was made for; None if it is not known."""
        run_id = getattr(config.get("callbacks"), "parent_run_id", None)
        run = self._handler.runs.get(run_id) if self._handler else None
        return run.context if run else None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Versions of LangChain that it knows."""
        return ("langchain-core >= 1.2.18, < 2",)

    def _instrument(self, *, tracer_provider: TracerProvider | None = None, **_: object) -> None:
        from langchain_core.callbacks import BaseCallbackManager
        from langchain_core.language_models import BaseChatModel
        from langchain_core.prompts import HumanMessagePromptTemplate, SystemMessagePromptTemplate

        from lightning_adapter_langchain import _models, _swaps

        doors: list[tuple[type, str, Wrapper]] = [
            (BaseChatModel, "generate", _models.generate),
            (BaseChatModel, "agenerate", _models.agenerate),
            (BaseChatModel, "stream", _models.stream),
            (BaseChatModel, "astream", _models.astream),
            (SystemMessagePromptTemplate, "format_messages", _swaps.format_messages),
            (SystemMessagePromptTemplate, "aformat_messages", _swaps.aformat_messages),
            (HumanMessagePromptTemplate, "format_messages", _swaps.format_messages),
            (HumanMessagePromptTemplate, "aformat_messages", _swaps.aformat_messages),
        ]
        self._undo = ExitStack()
        for owner, name, wrapper in doors:
            wrap(self._undo, owner, name, wrapper)
        if not is_wrapped(vars(BaseCallbackManager)["__init__"]):  # then the other one's spans are read
            tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=semconv.SCHEMA_URL)
            self._listen(tracer)

    def _listen(self, tracer: Tracer) -> None:
        from langchain_core.runnables import config
        from langchain_core.tracers.context import register_configure_hook

        from lightning_adapter_langchain import _graphs
        from lightning_adapter_langchain._handler import SpanHandler

        self._handler = SpanHandler(tracer, content=wanted(), readers=self.readers)
        # A default is there in every thread, whatever context it was started with.
        self._hook = ContextVar("agl_langchain_handler", default=self._handler)
        register_configure_hook(self._hook, inheritable=True)
        entering = _entering(self._handler)
        wrap(self._undo, config, "_set_config_context", entering)
        for pregel, runnables in _graphs.installed():
            wrap(self._undo, runnables, "_set_config_context", entering)
            wrap(self._undo, pregel, "stream", _graphs.stream)
            wrap(self._undo, pregel, "astream", _graphs.astream)

    def _uninstrument(self, **_: object) -> None:
        from langchain_core.tracers import context

        self._undo.close()
        context._configure_hooks[:] = [hook for hook in context._configure_hooks if hook[0] is not self._hook]
        if self._handler is not None:
            self._handler.runs.clear()
        self._hook = self._handler = None


def _entering(handler: SpanHandler) -> Wrapper:
    """LangChain copies the `contextvars` context for each run's code, and tells this function so."""
    from lightning_adapter_langchain._runs import enter

    def wrapper(
        method: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        found = method(*args, **kwargs)
        callbacks = (args[0] if args else kwargs["config"]).get("callbacks")
        run = handler.runs.get(getattr(callbacks, "parent_run_id", None))
        if run is not None:
            enter(run)
        return found

    return wrapper
