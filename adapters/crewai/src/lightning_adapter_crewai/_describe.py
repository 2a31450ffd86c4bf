"""What events say of crews, tasks, agents, tools, flows, retrievals and calls of models, as span attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from agentlightning import semconv
from agentlightning.capture.content import to_text as json_text
from agentlightning.types import Json
from lightning_adapter_crewai._llms import recorded_below

Attributes = dict[str, object]
Start = tuple[str, Attributes]
Event = Any
"""One of CrewAI's hundred event classes: what they have in common says little."""


class Told(NamedTuple):
    """A start, who told of it, and whether content is recorded."""

    source: object
    event: Event
    content: bool


NAME: Final = "_agl_name"
"""What an agent is called in spans, where that is not its role."""


def begun(source: object, event: Event, content: bool) -> Start | None:
    """Name and attributes of the span that an event starts; None if it starts none."""
    describe = _STARTS.get(event.type)
    return describe(Told(source, event, content)) if describe else None


def ended(event: Event, content: bool) -> Attributes:
    """Attributes that are known in the end."""
    describe = _ENDS.get(event.type)
    return describe(event) if describe and content else {}


def failure(event: Event) -> tuple[str, str] | None:
    """Type and message of the error that an event tells of."""
    error = getattr(event, "error", None)
    if error is None:
        failed = getattr(event, "failure", None)
        return ("ToolFailure", str(failed)) if failed is not None else None
    kind = getattr(event, "error_type", None) or type(error)
    name = "" if kind is str else getattr(kind, "__qualname__", "")
    return name or "CrewAIError", f"{name}: {error}" if name else str(error)


def agent_name(agent: object) -> str:
    """The agent's role as it was written: the same in each rollout, whatever is filled in."""
    found = getattr(agent, NAME, None) or getattr(agent, "_original_role", None) or getattr(agent, "role", "")
    return str(found).strip()


def to_text(value: object) -> str:
    """A value as JSON text, or a text as it is; what JSON cannot express is described rather than refused."""
    if isinstance(value, str):
        return value
    dump = getattr(value, "model_dump", None)
    return json_text(dump(mode="json") if callable(dump) else value)


def messages_of(role: str, text: str) -> str:
    """One message in the form of the conventions."""
    return to_text([{"role": role, "parts": [{"type": "text", "content": text}]}])


def _crew(told: Told) -> Start:
    name = told.event.crew_name or "crew"
    found: Attributes = {semconv.OPERATION: semconv.OPERATION_WORKFLOW, semconv.WORKFLOW_NAME: name}
    if told.content and told.event.inputs:
        found[semconv.INPUT_MESSAGES] = messages_of("user", to_text(told.event.inputs))
    return f"{semconv.OPERATION_WORKFLOW} {name}", found


def _task(told: Told) -> Start:
    name = getattr(told.source, "name", None) or "task"
    return f"task {name}", {semconv.OPERATION: semconv.OPERATION_OTHER, semconv.LOCATION: f"task.{name}"}


def _agent(told: Told) -> Start:
    prompt = told.event.task_prompt if told.content else None
    return _agent_span(agent_name(told.event.agent), str(told.event.agent.id), prompt)


def _agent_alone(told: Told) -> Start:
    original = getattr(told.source, "original_agent", None) or told.source
    name = agent_name(original) or str(told.event.agent_info.get("role", "")).strip()
    prompt = told.event.messages if isinstance(told.event.messages, str) else to_text(told.event.messages)
    return _agent_span(name, str(told.event.agent_info.get("id", "")), prompt if told.content else None)


def _agent_span(name: str, ident: str, prompt: str | None) -> Start:
    found: Attributes = {
        semconv.OPERATION: semconv.OPERATION_AGENT,
        semconv.AGENT_NAME: name,
        semconv.AGENT_ID: ident,
    }
    if prompt is not None:
        found[semconv.INPUT_MESSAGES] = messages_of("user", prompt)
    return f"{semconv.OPERATION_AGENT} {name}", found


def _tool(told: Told) -> Start:
    found: Attributes = {semconv.OPERATION: semconv.OPERATION_TOOL, semconv.TOOL_NAME: told.event.tool_name}
    if told.content:
        found[semconv.TOOL_CALL_ARGUMENTS] = to_text(told.event.tool_args)
    return f"{semconv.OPERATION_TOOL} {told.event.tool_name}", found


def _flow(told: Told) -> Start | None:
    if getattr(told.source, "suppress_flow_events", False):
        return None  # agents and memory are flows inside; those are no part of the program
    found: Attributes = {
        semconv.OPERATION: semconv.OPERATION_WORKFLOW,
        semconv.WORKFLOW_NAME: told.event.flow_name,
    }
    if told.content and told.event.inputs:
        found[semconv.INPUT_MESSAGES] = messages_of("user", to_text(told.event.inputs))
    return f"{semconv.OPERATION_WORKFLOW} {told.event.flow_name}", found


def _method(told: Told) -> Start:
    place = f"{told.event.flow_name}.{told.event.method_name}"
    return place, {semconv.OPERATION: semconv.OPERATION_OTHER, semconv.LOCATION: place}


def _retrieval(told: Told) -> Start:
    found: Attributes = {semconv.OPERATION: semconv.OPERATION_RETRIEVAL}
    query = getattr(told.event, "query", None) or getattr(told.event, "task_prompt", None)
    if told.content and query:
        found[semconv.RETRIEVAL_QUERY] = str(query)
    kind = told.event.type.removesuffix("_started")
    return f"{semconv.OPERATION_RETRIEVAL} {kind}", found


def _llm(told: Told) -> Start | None:
    if recorded_below(told.source):
        return None
    found: Attributes = {
        semconv.OPERATION: semconv.OPERATION_CHAT,
        semconv.PROVIDER: str(getattr(told.source, "provider", None) or "unknown"),
        semconv.REQUEST_MODEL: str(told.event.model),
    }
    if told.content:
        given = (
            told.event.messages
            if isinstance(told.event.messages, list)
            else [{"role": "user", "content": told.event.messages}]
        )
        found[semconv.INPUT_MESSAGES] = to_text([_message(one) for one in given])
        if told.event.tools:
            found[semconv.TOOL_DEFINITIONS] = to_text(told.event.tools)
    return f"{semconv.OPERATION_CHAT} {told.event.model}", found


def _message(message: Mapping[str, Any]) -> Json:
    parts: list[Json] = []
    if (text := message.get("content")) is not None:
        parts.append({"type": "text", "content": text if isinstance(text, str) else to_text(text)})
    parts += [{"type": "tool_call", "content": to_text(call)} for call in message.get("tool_calls") or ()]
    return {"role": str(message.get("role")), "parts": parts}


def _answer(event: Event) -> Attributes:
    usage = event.usage or {}
    found: Attributes = {
        semconv.OUTPUT_MESSAGES: messages_of("assistant", to_text(event.response)),
        semconv.FINISH_REASONS: [event.finish_reason or "stop"],
    }
    for key, name in ((semconv.INPUT_TOKENS, "prompt_tokens"), (semconv.OUTPUT_TOKENS, "completion_tokens")):
        if isinstance(usage.get(name), int):
            found[key] = usage[name]
    if ident := getattr(event, "response_id", None):
        found[semconv.RESPONSE_ID] = str(ident)
    return found


def _output(event: Event) -> Attributes:
    output = getattr(event.output, "raw", event.output)
    return {semconv.OUTPUT_MESSAGES: messages_of("assistant", to_text(output))}


def _result(event: Event) -> Attributes:
    return {semconv.OUTPUT_MESSAGES: messages_of("assistant", to_text(event.result))}


_STARTS: Final[Mapping[str, Callable[[Told], Start | None]]] = {
    "crew_kickoff_started": _crew,
    "task_started": _task,
    "agent_execution_started": _agent,
    "lite_agent_execution_started": _agent_alone,
    "tool_usage_started": _tool,
    "flow_started": _flow,
    "method_execution_started": _method,
    "memory_retrieval_started": _retrieval,
    "memory_query_started": _retrieval,
    "knowledge_query_started": _retrieval,
    "knowledge_search_query_started": _retrieval,
    "llm_call_started": _llm,
}

_ENDS: Final[Mapping[str, Callable[[Event], Attributes]]] = {
    "crew_kickoff_completed": _output,
    "task_completed": _output,
    "agent_execution_completed": _output,
    "lite_agent_execution_completed": _output,
    "tool_usage_finished": lambda event: {semconv.TOOL_CALL_RESULT: to_text(event.output)},
    "flow_finished": _result,
    "memory_query_completed": lambda event: {semconv.RETRIEVAL_DOCUMENTS: to_text(event.results)},
    "memory_retrieval_completed": lambda event: {semconv.RETRIEVAL_DOCUMENTS: to_text(event.memory_content)},
    "knowledge_search_query_completed": lambda event: {
        semconv.RETRIEVAL_DOCUMENTS: to_text(event.retrieved_knowledge)
    },
    "llm_call_completed": _answer,
}
