"""What can be optimised in agents and teams, and how a rollout's values get into its copy."""

from __future__ import annotations

from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Handoff
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentlightning.agents import TunableKind
from agentlightning.errors import ConfigError, TargetError
from agentlightning.testing import ScriptedAnswer
from agentlightning.types import ModelEndpoint, PromptTemplate

Client = OpenAIChatCompletionClient


def look_up(word: str) -> str:
    return word


def department(model_client: Client) -> SelectorGroupChat:
    writer = AssistantAgent(
        "writer",
        model_client=model_client,
        description="Writes.",
        system_message="You write.",
        tools=[FunctionTool(look_up, description="Looks a word up.")],
        handoffs=[Handoff(target="critic", description="To the critic.")],
    )
    critic = AssistantAgent(
        "critic", model_client=model_client, description="Criticises.", system_message=None
    )
    return SelectorGroupChat(
        [writer, critic],
        model_client=model_client,
        name="office",
        max_turns=1,
        selector_prompt="{roles} {participants} {history} Who is next?",
    )


def test_they_are_those_of_all_agents(stage: Any, model_client: Client) -> None:
    found = {one.name: (one.kind, one.value) for one in stage.adapter.tunables(department(model_client))}
    model, tool = TunableKind.MODEL, TunableKind.TOOL_DESCRIPTION
    assert found == {
        "office.selector_prompt": (
            TunableKind.INSTRUCTION,
            "{roles} {participants} {history} Who is next?",
        ),
        "office.model": (model, "users-own-model"),
        "writer.system_message": (TunableKind.SYSTEM_PROMPT, "You write."),
        "writer.description": (TunableKind.ROLE, "Writes."),
        "writer.model": (model, "users-own-model"),
        "writer.tools.look_up": (tool, "Looks a word up."),
        "writer.handoffs.transfer_to_critic": (tool, "To the critic."),
        "critic.description": (TunableKind.ROLE, "Criticises."),
        "critic.model": (model, "users-own-model"),
    }


async def test_all_of_them_reach_the_model(stage: Any, model_client: Client) -> None:
    team = department(model_client)
    before = stage.adapter.tunables(team)
    new = {
        one.name: PromptTemplate(template=f"New {one.name}.")
        for one in before
        if one.kind is not TunableKind.MODEL
    }
    new["office.selector_prompt"] = PromptTemplate(template="{roles} {participants} {history} New?")
    stage.replies = [ScriptedAnswer(text="writer"), ScriptedAnswer(text="written")]
    assert await stage.play(team, stage.rollout(resources=new)) == "written"
    selection, writing = stage.llm.requests
    asked = str(selection.json["messages"])
    assert "New?" in asked
    assert "writer: New writer.description." in asked
    assert "critic: New critic.description." in asked
    assert writing.json["messages"][0]["content"] == "New writer.system_message."
    functions = [tool["function"] for tool in writing.json["tools"]]
    assert {one["name"]: one["description"] for one in functions} == {
        "look_up": "New writer.tools.look_up.",
        "transfer_to_critic": "New writer.handoffs.transfer_to_critic.",
    }
    assert stage.adapter.tunables(team) == before


async def test_a_model_is_replaced_with_its_settings(stage: Any, model_client: Client) -> None:
    endpoint = ModelEndpoint(model="other", temperature=0.25, max_tokens=7)
    stage.endpoint_model = None
    context = stage.rollout(resources={"writer.model": endpoint})
    await stage.play(AssistantAgent("writer", model_client=model_client), context)
    (request,) = stage.llm.requests
    asked = request.json
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("other", 0.25, 7)
    assert model_client._create_args["model"] == "users-own-model"


def test_two_agents_of_one_name_are_refused(stage: Any, model_client: Client) -> None:
    inner = RoundRobinGroupChat([AssistantAgent("writer", model_client=model_client)], name="inner")
    outer = RoundRobinGroupChat([inner, AssistantAgent("writer", model_client=model_client)])
    with pytest.raises(TargetError, match="called 'writer'"):
        stage.adapter.tunables(outer)


async def test_a_resource_of_another_kind_is_an_error(stage: Any, model_client: Client) -> None:
    context = stage.rollout(resources={"writer.system_message": ModelEndpoint(model="m")})
    with pytest.raises(ConfigError, match=r"'writer\.system_message' must be a PromptTemplate"):
        await stage.play(AssistantAgent("writer", model_client=model_client), context)
