"""Agents and workflows as functions of a task."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Final, TypeVar, cast

from agent_framework import AgentExecutorResponse, AgentResponse, BaseAgent, Message, RawAgent, Workflow
from agent_framework._workflows._agent import WorkflowAgent
from agent_framework._workflows._functional import FunctionalWorkflow, FunctionalWorkflowAgent

from agentlightning.calling import conversation, described, output_data
from agentlightning.errors import TargetError
from agentlightning.types import Json
from lightning_adapter_agent_framework._objects import parts

_STATEFUL = (Workflow, FunctionalWorkflow, WorkflowAgent, FunctionalWorkflowAgent)
_NOTICES: Final = ("TERMINATION_CONDITION_MET_MESSAGE", "MAX_ROUNDS_MET_MESSAGE")
_Extension = TypeVar("_Extension")


def fresh(root: object) -> object:
    """What a rollout calls: agents as they are, and a workflow's copy, because it remembers its runs.

    The copy shares chat clients, tools, and agents' own middleware and context providers; executors with their state,
    sessions and messages are its own.

    Raises:
        TargetError: An executor has something that cannot be copied.
    """
    if not isinstance(root, _STATEFUL):
        return root
    try:
        return copy.deepcopy(root, _twins(root))
    except (TypeError, copy.Error) as error:
        raise TargetError(
            f"the workflow {getattr(root, 'name', None)!r} cannot be copied for a rollout ({error}); "
            "train a function that builds it and runs it instead"
        ) from error


def _twins(root: object) -> dict[int, object]:
    """What stands in the copy for the agents, clients and tools of a workflow, by identity."""
    found = [part for part in parts(root) if not isinstance(part, _STATEFUL)]
    twins = {id(part): copy.copy(part) if isinstance(part, RawAgent) else part for part in found}
    for agent in found:
        twin = twins[id(agent)]
        if isinstance(twin, RawAgent):
            twin.middleware = [_twin(one, twins) for one in twin.middleware or ()]
            twin.context_providers = [_twin(one, twins) for one in twin.context_providers]
    return twins


def _twin(extension: _Extension, twins: dict[int, object]) -> _Extension:
    """Orchestrations put objects into agents through which they talk to their executors: those are the copy's own."""
    orchestration = type(extension).__module__.startswith("agent_framework_orchestrations")
    return copy.deepcopy(extension, twins) if orchestration else extension


async def call(root: object, task: Json) -> Json:
    """Runs an agent or a workflow, and returns the text or the data that it ends with."""
    if isinstance(root, BaseAgent):
        response = await root.run(_messages(task))  # type: ignore[attr-defined]
        return plain(response)
    workflow = cast("Workflow", root)
    outputs = (await workflow.run(_input(workflow, task))).get_outputs()
    said = [output for output in outputs if not _is_notice(output)]
    return plain((said or outputs)[-1]) if outputs else None


def _is_notice(output: object) -> bool:
    """Whether it only tells that a group chat is over, which its orchestrator does in the last output."""
    chats = sys.modules.get("agent_framework_orchestrations._base_group_chat_orchestrator")
    orchestrator = getattr(chats, "BaseGroupChatOrchestrator", None)
    notices = (getattr(orchestrator, name, None) for name in _NOTICES)
    return isinstance(output, AgentResponse) and output.text in notices


def plain(output: object) -> Json:
    """An output as data: the text of messages, the fields of models."""
    if isinstance(output, AgentExecutorResponse):
        output = output.agent_response
    if isinstance(output, Sequence) and output and all(isinstance(one, Message) for one in output):
        return "\n".join(one.text for one in output)
    return output_data(output, convert=_said)


def _said(value: object) -> object:
    if isinstance(value, AgentExecutorResponse):
        value = value.agent_response
    return value.text if isinstance(value, AgentResponse | Message) else described(value)


def _input(workflow: object, task: Json) -> object:
    """The task as the workflow takes it: as it is where its first executor takes such data, else as messages."""
    if isinstance(workflow, Workflow) and type(task) not in workflow.input_types:
        return _messages(task)
    return task


def _messages(task: Json) -> str | list[Message]:
    given = conversation(task)
    if isinstance(given, str):
        return given
    return [Message(str(one["role"]), [cast("str", one.get("content") or "")]) for one in given]
