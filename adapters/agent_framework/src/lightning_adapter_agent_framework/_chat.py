"""One span for each model call: the framework's steps back where an SDK's adapter records the call in a rollout."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Final, cast

from agentlightning.capture import current_rollout
from agentlightning.capture.instrumentations import at_work

_stepping_back: ContextVar[bool] = ContextVar("agl_agent_framework_steps_back", default=False)

_SDKS: Final = (
    ("openai", ("OpenAI", "AsyncOpenAI"), "lightning_adapter_openai", "OpenAIInstrumentor"),
    ("anthropic", ("Anthropic", "AsyncAnthropic"), "lightning_adapter_anthropic", "AnthropicInstrumentor"),
)


def step_back() -> bool:
    """Whether the span that is to be started now is one of a call that is recorded below; true once for each."""
    found = _stepping_back.get()
    if found:
        _stepping_back.set(False)
    return found


def get_response(
    method: Callable[..., object], client: object, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    """Wraps the layer of chat clients that makes their spans."""
    if current_rollout() is None or not _recorded_below(client):
        return method(*args, **kwargs)
    if not kwargs.get("stream"):
        return _asked(method, args, kwargs)
    _stepping_back.set(True)
    try:
        return method(*args, **kwargs)
    finally:
        _stepping_back.set(False)


async def _asked(
    method: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    _stepping_back.set(True)
    try:
        return await cast("Awaitable[object]", method(*args, **kwargs))
    finally:
        _stepping_back.set(False)


def _recorded_below(client: object) -> bool:
    """Whether the chat client holds a client of an SDK whose adapter is at work."""
    for sdk, names, adapter, instrumentor in _SDKS:
        if sdk in sys.modules and at_work(adapter, instrumentor):
            kinds = tuple(getattr(sys.modules[sdk], name) for name in names)
            if any(isinstance(value, kinds) for value in vars(client).values()):
                return True
    return False
