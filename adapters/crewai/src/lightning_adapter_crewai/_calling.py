"""Crews, flows and agents as functions of a task."""

from __future__ import annotations

from typing import Any, cast

from crewai import Agent, Crew, CrewOutput, Flow
from crewai.lite_agent_output import LiteAgentOutput
from crewai.types.streaming import CrewStreamingOutput, StreamSession

from agentlightning.calling import conversation, output_data
from agentlightning.errors import TargetError
from agentlightning.types import Json


def call(root: object, task: Json) -> Json:
    """Kicks a crew, a flow or an agent off, and returns its text, or the data that it was told to produce."""
    if isinstance(root, Agent):
        return plain(root.kickoff(cast("Any", conversation(task))))
    if isinstance(root, Crew):
        return plain(root.kickoff(inputs=_inputs(root, task)))
    return plain(cast("Flow[Any]", root).kickoff(inputs=task if isinstance(task, dict) else {"task": task}))


def plain(output: object) -> Json:
    """An output as data; one that streams is read to its end."""
    if isinstance(output, CrewStreamingOutput | StreamSession):
        for _ in output:
            pass
        output = output.result
    if isinstance(output, CrewOutput | LiteAgentOutput):
        found = getattr(output, "json_dict", None) or output.pydantic
        return output.raw if found is None else output_data(found)
    return output_data(output)


def _inputs(crew: Crew, task: Json) -> dict[str, Json]:
    if isinstance(task, dict):
        return task
    names = sorted(crew.fetch_inputs())
    if len(names) == 1:
        return {names[0]: task}
    found = ", ".join(map(repr, names)) or "none"
    if not names:
        raise TargetError(
            f"the crew has no place for the task {task!r}; write a placeholder such as '{{task}}' into a description"
        )
    raise TargetError(f"the crew's placeholders are {found}; pass a task with these keys, found {task!r}")
