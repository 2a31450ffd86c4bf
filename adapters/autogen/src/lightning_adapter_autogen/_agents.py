"""Spans of agents are the framework's own, where it makes them; here are those that it leaves out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, Final, cast

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.teams._group_chat._base_group_chat_manager import BaseGroupChatManager
from autogen_core import BaseAgent, trace_invoke_agent_span
from opentelemetry import trace
from opentelemetry.trace import Tracer

from agentlightning import semconv
from agentlightning.capture.content import say
from lightning_adapter_autogen._spans import own_tracer

_OWN: Final = frozenset({"autogen_agentchat", "autogen_core", "autogen_ext"})
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


async def on_messages(
    method: Callable[..., Awaitable[object]], agent: BaseChatAgent, args: _Args, kwargs: _Kwargs
) -> object:
    """Wraps an assistant's own method: called directly, the framework has no span for it."""
    with _as_agent(agent.name):
        return await method(*args, **kwargs)


def on_messages_stream(
    method: Callable[..., Any], agent: BaseChatAgent, args: _Args, kwargs: _Kwargs
) -> AsyncIterator[object]:
    """The same, streamed."""
    if _is_current(agent.name):
        return cast("AsyncIterator[object]", method(*args, **kwargs))
    return _streamed(method, agent, args, kwargs)


async def _streamed(
    method: Callable[..., Any], agent: BaseChatAgent, args: _Args, kwargs: _Kwargs
) -> AsyncIterator[object]:
    span = own_tracer().start_span(
        f"{semconv.OPERATION_AGENT} {agent.name}",
        attributes={semconv.OPERATION: semconv.OPERATION_AGENT, semconv.AGENT_NAME: agent.name},
    )
    try:
        async with aclosing(method(*args, **kwargs)) as messages:
            while True:
                with trace.use_span(span):  # only while the agent works: the consumer's code is not below it
                    message = await anext(messages, None)
                if message is None:
                    break
                yield message
    finally:
        span.end()


def _as_agent(name: str) -> AbstractContextManager[object]:
    """A span of the agent around the block, unless its span is the current one already."""
    return nullcontext() if _is_current(name) else trace_invoke_agent_span(agent_name=name)


def _is_current(name: str) -> bool:
    attributes = getattr(trace.get_current_span(), "attributes", None) or {}
    agent = (attributes.get(semconv.OPERATION), attributes.get(semconv.AGENT_NAME))
    return agent == (semconv.OPERATION_AGENT, name)


async def on_message(
    method: Callable[..., Awaitable[object]], agent: object, args: _Args, kwargs: _Kwargs
) -> object:
    """Wraps what managers of teams do with a message: the model that chooses speakers is asked by the manager."""
    if not isinstance(agent, BaseGroupChatManager) or not hasattr(agent, "_model_client"):
        return await method(*args, **kwargs)
    with _as_agent(agent._name):
        return await method(*args, **kwargs)


async def on_core_message(
    method: Callable[..., Awaitable[object]], agent: BaseAgent, args: _Args, kwargs: _Kwargs
) -> object:
    """Wraps how agents of the core take a message. The framework's own are containers and managers of teams."""
    if type(agent).__module__.partition(".")[0] in _OWN:
        return await method(*args, **kwargs)
    with _as_agent(agent.id.type):
        return await method(*args, **kwargs)


def remembering(tracer: Tracer) -> Callable[..., Awaitable[object]]:
    """Wraps what an assistant does with its memory."""

    async def update(
        method: Callable[..., Awaitable[Any]], _: object, args: _Args, kwargs: _Kwargs
    ) -> object:
        if not (kwargs.get("memory") or args):
            return await method(*args, **kwargs)
        attributes = {semconv.OPERATION: semconv.OPERATION_RETRIEVAL}
        with tracer.start_as_current_span(semconv.OPERATION_RETRIEVAL, attributes=attributes) as span:
            events = await method(*args, **kwargs)
            contents = [content for event in events for content in event.content]
            say(
                span,
                semconv.RETRIEVAL_DOCUMENTS,
                lambda: [{"content": str(content.content)} for content in contents],
            )
            return events

    return update
