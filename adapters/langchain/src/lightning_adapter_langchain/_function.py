"""An agent, chain or chat model as a function of its task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

import msgspec
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig

from agentlightning.agents import AgentFunction
from agentlightning.types import Json

Output = Any
"""What a `Runnable` takes and returns: whatever its author likes."""


def as_function(agent: Runnable[Any, Any]) -> AgentFunction:
    """The agent as an async function: a task becomes its input, its output plain data.

    A text for a graph with messages is its user's message; a chat model takes a text, messages, or what has some under
    `messages`; everything else gets the task as it is. A graph with a checkpointer has a thread for each call.
    """

    async def call(task: Json) -> Json:
        return to_json(await agent.ainvoke(_input(agent, task), _config(agent)))

    def call_in_thread(task: Json) -> Json:
        return to_json(agent.invoke(_input(agent, task), _config(agent)))

    return call_in_thread if _saves_in_threads(agent) else call


def to_json(value: Output) -> Json:
    """An agent's output as plain data; messages in the form of OpenAI's API."""
    if isinstance(value, BaseMessage):
        return cast("Json", convert_to_openai_messages(value))
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: to_json(getattr(value, one.name)) for one in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return cast("Json", dump(mode="json"))
    return cast("Json", msgspec.to_builtins(value, enc_hook=repr))


def _input(agent: Runnable[Any, Any], task: Json) -> Output:
    if "messages" in _channels(agent) and isinstance(task, str):
        return {"messages": [{"role": "user", "content": task}]}
    if isinstance(_innermost(agent), BaseLanguageModel) and isinstance(task, dict) and "messages" in task:
        return task["messages"]
    return task


def _config(agent: Runnable[Any, Any]) -> RunnableConfig:
    if isinstance(getattr(agent, "checkpointer", None), bool | None):
        return {}
    return {"configurable": {"thread_id": uuid4().hex}}


def _channels(agent: object) -> Mapping[str, Any]:
    channels = getattr(agent, "channels", None)
    return channels if isinstance(channels, Mapping) else {}


def _innermost(agent: object) -> object:
    while isinstance(agent, RunnableBinding):
        agent = agent.bound
    return agent


def _saves_in_threads(agent: object) -> bool:
    """Whether a graph has a checkpointer without async methods."""
    saver: Any = getattr(agent, "checkpointer", None)
    put = getattr(type(saver), "aput", None)
    return getattr(put, "__module__", None) == "langgraph.checkpoint.base"
