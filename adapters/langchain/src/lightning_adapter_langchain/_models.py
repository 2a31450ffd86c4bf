"""The doors of chat models: which model a callback is about, and what a rollout asks it instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from opentelemetry import context as otel_context

from agentlightning.capture.instrumentations import at_work
from lightning_adapter_langchain._scope import astepwise, inside, stepwise
from lightning_adapter_langchain._swaps import current_swaps

_DOOR: Final = "agl-langchain-door"
_Method = Callable[..., Any]
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_SDKS: Final = (
    ("openai", "langchain_openai", "lightning_adapter_openai", "OpenAIInstrumentor"),
    ("anthropic", "langchain_anthropic", "lightning_adapter_anthropic", "AnthropicInstrumentor"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A chat model whose code runs.

    Attributes:
        alone: It answers one question, not several.
        whole: It answers at once, not in parts.
    """

    model: BaseChatModel
    alone: bool = True
    whole: bool = True


def opened() -> Door | None:
    """Where this code came in; None in LangChain's newest way to stream, which has no door that can be wrapped."""
    found = otel_context.get_value(_DOOR)
    return found if isinstance(found, Door) else None


def generate(method: _Method, model: BaseChatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Wraps `BaseChatModel.generate`."""
    args, kwargs = _asked(model, args, kwargs)
    with inside({_DOOR: Door(model=model, alone=_alone(args, kwargs))}):
        return method(*args, **kwargs)


async def agenerate(
    method: _Method, model: BaseChatModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    """Wraps `BaseChatModel.agenerate`."""
    args, kwargs = _asked(model, args, kwargs)
    with inside({_DOOR: Door(model=model, alone=_alone(args, kwargs))}):
        return await cast("Awaitable[Any]", method(*args, **kwargs))


def stream(method: _Method, model: BaseChatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Wraps `BaseChatModel.stream`."""
    args, kwargs = _asked(model, args, kwargs)
    return stepwise(method(*args, **kwargs), {_DOOR: Door(model=model, whole=False)})


def astream(method: _Method, model: BaseChatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Wraps `BaseChatModel.astream`."""
    args, kwargs = _asked(model, args, kwargs)
    return astepwise(method(*args, **kwargs), {_DOOR: Door(model=model, whole=False)})


def recorded_below(model: BaseChatModel | None, provider: object) -> bool:
    """Whether a model calls an SDK whose adapter records the calls.

    Args:
        model: The model; None if it is not known.
        provider: What LangChain says of it.
    """
    for sdk, package, adapter, instrumentor in _SDKS:
        if at_work(adapter, instrumentor):
            if model is None and provider == sdk:
                return True
            if model is not None and (_of(type(model).__mro__, package) or _holds(model, sdk)):
                return True
    return False


def _of(kinds: Sequence[type], package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in kinds)


def _holds(model: BaseChatModel, sdk: str) -> bool:
    values = [*vars(model).values(), *(model.__pydantic_private__ or {}).values()]
    return any(type(value).__module__.partition(".")[0] == sdk for value in values)


def _alone(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args[0] if args else kwargs.get("messages", ())) == 1


def _asked(model: BaseChatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
    """The arguments as the current rollout wants them."""
    swaps = current_swaps()
    if swaps is None:
        return args, kwargs
    name = "input" if "input" in kwargs else "messages"
    given = args[0] if args else kwargs[name]
    if name == "messages" and _is_batch(given):
        asked: Any = [swaps.messages(messages) for messages in given]
    else:
        asked = swaps.messages(model._convert_input(given).to_messages())
    kwargs = {**kwargs, **swaps.settings(model)}
    if "tools" in kwargs:
        kwargs["tools"] = swaps.tools(kwargs["tools"])
    return ((asked, *args[1:]), kwargs) if args else (args, {**kwargs, name: asked})


def _is_batch(given: object) -> bool:
    return isinstance(given, list) and all(
        isinstance(messages, list) and all(isinstance(one, BaseMessage) for one in messages)
        for messages in given
    )
