"""What can be optimised in crews and agents, and how a rollout's values get in."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import BaseTool

from agentlightning.agents import TunableKind
from agentlightning.capture import in_rollout
from agentlightning.errors import ConfigError, TargetError
from agentlightning.testing import ScriptedAnswer
from agentlightning.types import ModelEndpoint, PromptTemplate


class Search(BaseTool):
    name: str = "Web Search"
    description: str = "Search the web."

    def _run(self, query: str) -> str:
        return query


def llm() -> LLM:
    return LLM(model="openai/gpt-4o-mini", base_url="http://127.0.0.1:9/v1", api_key="users-key")


def agent(role: str = "Senior Writer", **given: Any) -> Agent:
    given = {"goal": "Write {topic}", **given}
    return Agent(role=role, backstory="You write.", llm=llm(), tools=[Search()], **given)


def crew(**given: Any) -> Crew:
    first, second = agent(), agent("Reviewer")
    tasks = [
        Task(name="Draft", description="Draft {topic}", expected_output="A draft", agent=first),
        Task(description="Review {topic}", expected_output="A review", agent=second),
    ]
    return Crew(agents=[first, second], tasks=tasks, **given)


VALUES = {
    "senior_writer.role": PromptTemplate(template="Junior Writer"),
    "senior_writer.goal": PromptTemplate(template="Rhyme on {topic}"),
    "senior_writer.backstory": PromptTemplate(template="You rhyme."),
    "senior_writer.tools.web_search": PromptTemplate(template="Search better."),
    "senior_writer.model": ModelEndpoint(model="other-model", temperature=0.5, max_tokens=7),
    "task_draft.description": PromptTemplate(template="Sketch {topic}"),
    "task_draft.expected_output": PromptTemplate(template="A sketch"),
}


def run(stage: Any, root: object, task: Any = "snow", resources: Any = VALUES, name: str = "a") -> Any:
    context = stage.rollout(name, resources=resources)
    with in_rollout(context), stage.adapter.bind(root, context) as bound:
        return stage.adapter.as_function(bound)(task)


def test_names_values_and_kinds(stage: Any) -> None:
    found = {one.name: one for one in stage.adapter.tunables(crew())}
    assert list(found) == [
        "senior_writer.role",
        "senior_writer.goal",
        "senior_writer.backstory",
        "senior_writer.model",
        "senior_writer.tools.web_search",
        "reviewer.role",
        "reviewer.goal",
        "reviewer.backstory",
        "reviewer.model",
        "reviewer.tools.web_search",
        "task_draft.description",
        "task_draft.expected_output",
        "task_2.description",
        "task_2.expected_output",
    ]
    assert found["senior_writer.goal"].value == "Write {topic}"
    assert found["senior_writer.tools.web_search"].value == "Search the web."
    assert found["task_2.description"].kind is TunableKind.INSTRUCTION
    assert found["senior_writer.role"].place == "agent 'Senior Writer', role"


def test_names_and_values_outlive_a_kickoff(stage: Any) -> None:
    team = crew()
    before = stage.adapter.tunables(team)
    with in_rollout(stage.rollout()):
        team.kickoff(inputs={"topic": "snow"})
    assert stage.adapter.tunables(team) == before


def test_a_manager_and_agents_of_one_role_are_told_apart(stage: Any) -> None:
    twins = [agent("Twin"), agent("Twin")]
    task = Task(description="Do {topic}", expected_output="It")
    team = Crew(agents=twins, tasks=[task], process=Process.hierarchical, manager_agent=agent("Boss"))
    names = {one.name.split(".")[0] for one in stage.adapter.tunables(team)}
    assert names == {"twin", "twin_2", "boss", "task_1"}


def test_a_rollouts_values_reach_the_model(stage: Any) -> None:
    team = crew()
    before = stage.adapter.tunables(team)
    run(stage, team)
    sent = stage.llm.requests[0].json
    text = json.dumps(sent["messages"])
    for wanted in ("Junior Writer", "Rhyme on snow", "You rhyme.", "Sketch snow", "A sketch"):
        assert wanted in text
    assert sent["tools"][0]["function"]["description"] == "Search better."
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("other-model", 0.5, 7)
    assert "Review snow" in json.dumps(stage.llm.requests[1].json["messages"])
    assert stage.adapter.tunables(team) == before


def test_an_agents_name_is_its_own_role_whatever_a_rollout_calls_it(stage: Any) -> None:
    run(stage, crew())
    assert [span.agent for span in stage.of("invoke_agent")] == ["Senior Writer", "Reviewer"]


def test_tasks_keep_their_agents(stage: Any) -> None:
    one, two, outsider = agent("Twin"), agent("Twin", max_iter=3), agent("Outsider")
    tasks = [
        Task(description="Do {topic}", expected_output="It", agent=each, tools=[])
        for each in (two, one, outsider)
    ]
    team = Crew(agents=[one, two], tasks=tasks)
    with stage.adapter.bind(team, stage.rollout()) as bound:
        assert [task.agent.max_iter for task in bound.tasks[:2]] == [3, one.max_iter]
        assert bound.tasks[0].agent is bound.agents[1]
        assert bound.tasks[2].agent.role == "Outsider"
        assert bound.tasks[2].agent is not outsider


def test_sixteen_rollouts_at_once_have_their_own_values(stage: Any) -> None:
    stage.script = lambda request: ScriptedAnswer(text="done")
    team = crew()

    def one(number: int) -> None:
        value = {"senior_writer.backstory": PromptTemplate(template=f"You are number {number}.")}
        run(stage, team, f"topic-{number}", value, str(number))

    with ThreadPoolExecutor(16) as threads:
        for job in [threads.submit(copy_context().run, one, number) for number in range(16)]:
            job.result()
    seen: dict[str, list[str]] = {}
    for request in stage.llm.requests:
        seen.setdefault(request.headers["authorization"], []).append(json.dumps(request.json["messages"]))
    for number in range(16):
        texts = seen[f"Bearer key-{number}"]
        assert len(texts) == 2
        assert sum(f"You are number {number}." in text for text in texts) == 1
        assert all(f"topic-{number}" in text for text in texts)


def test_a_resource_of_the_wrong_kind_is_refused(stage: Any) -> None:
    with pytest.raises(ConfigError, match=r"'senior_writer\.goal' must be a PromptTemplate"):
        run(stage, crew(), resources={"senior_writer.goal": ModelEndpoint(model="m")})


def test_a_task_that_does_not_fit_is_refused(stage: Any) -> None:
    one = agent(goal="Write")
    bare = Crew(agents=[one], tasks=[Task(description="Go", expected_output="It", agent=one)])
    with pytest.raises(TargetError, match="has no place for the task 'snow'"):
        run(stage, bare, resources={})
    both = Crew(agents=[one], tasks=[Task(description="{a} {b}", expected_output="It", agent=one)])
    with pytest.raises(TargetError, match="placeholders are 'a', 'b'"):
        run(stage, both, resources={})


def test_other_objects_are_refused(stage: Any) -> None:
    assert not stage.adapter.accepts(llm())
    with pytest.raises(TargetError, match="no crew, flow or agent of CrewAI"):
        stage.adapter.as_function(object())
