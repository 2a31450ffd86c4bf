"""What can be optimised in agents and workflows, and how a rollout's values get in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_framework import Agent, Workflow, tool
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework.orchestrations import HandoffBuilder, SequentialBuilder

from agentlightning.agents import TunableKind
from agentlightning.capture import in_rollout
from agentlightning.errors import ConfigError, TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedFault
from agentlightning.types import ModelEndpoint, PromptTemplate


@tool(approval_mode="never_require")
def search(query: str) -> str:
    """Search the web."""
    return query


def agent(name: str | None = "writer", **given: Any) -> Agent:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini", api_key="k", base_url="http://127.0.0.1:9/v1")
    return Agent(client=client, name=name, instructions=f"You are {name}.", tools=[search], **given)


def team() -> Workflow:
    return SequentialBuilder(participants=[agent("writer"), agent("reviewer")]).build()


VALUES = {
    "writer.instructions": PromptTemplate(template="Write {as it stands}."),
    "writer.tools.search": PromptTemplate(template="Search better."),
    "writer.model": ModelEndpoint(model="other-model", temperature=0.5, max_tokens=7),
}


def test_names_values_and_kinds(stage: Any) -> None:
    found = stage.adapter.tunables(agent())
    assert [(one.name, one.kind, one.value) for one in found] == [
        ("writer.instructions", TunableKind.INSTRUCTION, "You are writer."),
        ("writer.model", TunableKind.MODEL, "gpt-4o-mini"),
        ("writer.tools.search", TunableKind.TOOL_DESCRIPTION, "Search the web."),
    ]
    assert found[0].place == "agent 'writer', instructions"


@pytest.mark.parametrize("make", [team, lambda: team().as_agent(name="team")])
def test_agents_of_a_workflow_are_found(stage: Any, make: Any) -> None:
    names = [one.name for one in stage.adapter.tunables(make())]
    assert {name.split(".")[0] for name in names} == {"writer", "reviewer"}
    assert names == [one.name for one in stage.adapter.tunables(make())]
    assert len(names) == len(set(names)) == 6


def test_agents_of_a_handoff_and_agents_as_tools_are_found(stage: Any) -> None:
    one, two = agent("one"), agent("two")
    for each in (one, two):
        each.require_per_service_call_history_persistence = True
    workflow = HandoffBuilder(participants=[one, two]).with_start_agent(one).build()
    names = [t.name for t in stage.adapter.tunables(workflow)]
    assert {"one.instructions", "two.instructions"} <= set(names)
    outer = Agent(client=one.client, name="outer", tools=[one.as_tool()])
    assert "one.instructions" in [t.name for t in stage.adapter.tunables(outer)]


def test_agents_with_one_name_are_refused(stage: Any) -> None:
    outer = Agent(client=agent().client, name="writer", instructions="x", tools=[agent("writer").as_tool()])
    with pytest.raises(TargetError, match="called 'writer'"):
        stage.adapter.tunables(outer)


async def ask(stage: Any, root: object, resources: Any = VALUES, name: str = "a") -> None:
    context = stage.rollout(name, resources=resources)
    with in_rollout(context), stage.adapter.bind(root, context) as bound:
        await stage.adapter.as_function(bound)("hi")


@pytest.mark.parametrize("make", [agent, team])
async def test_a_rollouts_values_reach_the_model(stage: Any, make: Any) -> None:
    root = make()
    before = stage.adapter.tunables(root)
    await ask(stage, root)
    sent = stage.llm.requests[0].json
    assert sent["messages"][0]["content"] == "Write {as it stands}."
    assert sent["tools"][0]["function"]["description"] == "Search better."
    assert (sent["model"], sent["temperature"]) == ("other-model", 0.5)
    assert 7 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert stage.adapter.tunables(root) == before


async def test_an_agent_inside_of_a_function_gets_them_too(stage: Any) -> None:
    writer = agent()
    with in_rollout(stage.rollout(resources=VALUES)):
        async with writer.run("hi", stream=True) as updates:
            async for _ in updates:
                pass
    assert stage.llm.requests[0].json["messages"][0]["content"] == "Write {as it stands}."


async def test_rollouts_at_once_have_their_own_values(stage: Any) -> None:
    root = team()
    await asyncio.gather(
        *(
            ask(
                stage, root, {"writer.instructions": PromptTemplate(template=f"prompt {number}")}, str(number)
            )
            for number in range(16)
        )
    )
    seen = {(r.headers["authorization"], r.json["messages"][0]["content"]) for r in stage.llm.requests}
    assert seen == {(f"Bearer key-{n}", f"prompt {n}") for n in range(16)} | {
        (f"Bearer key-{n}", "You are reviewer.") for n in range(16)
    }


async def test_everything_is_as_before_after_a_failure(stage: Any) -> None:
    root = agent()
    stage.replies = [ScriptedFault(status=400)]
    with pytest.raises(Exception, match="scripted fault"):
        await ask(stage, root)
    await ask(stage, root, {})
    assert stage.llm.requests[-1].json["messages"][0]["content"] == "You are writer."


async def test_everything_is_as_before_after_a_cancellation(stage: Any) -> None:
    root = agent()
    stage.replies = [ScriptedAnswer(text="late", hold_after=0)]
    asking = asyncio.create_task(ask(stage, root))
    await asyncio.to_thread(stage.llm.wait_held)
    asking.cancel()
    (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    stage.llm.let_go()
    assert isinstance(outcome, asyncio.CancelledError)
    await ask(stage, root, {})
    assert stage.llm.requests[-1].json["messages"][0]["content"] == "You are writer."


async def test_a_resource_of_the_wrong_kind_is_refused(stage: Any) -> None:
    with pytest.raises(ConfigError, match=r"'writer\.model' must be a ModelEndpoint"):
        await ask(stage, agent(), {"writer.model": PromptTemplate(template="x")})
