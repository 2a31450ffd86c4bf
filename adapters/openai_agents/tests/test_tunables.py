"""What can be optimised in agents, and how a rollout's values reach the model."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, Model, Runner, function_tool, handoff
from agents.models.openai_responses import OpenAIResponsesWSModel

from agentlightning.agents import TunableKind
from agentlightning.capture import in_rollout
from agentlightning.errors import ConfigError, TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import ModelEndpoint, PromptTemplate


@function_tool
def look_up(word: str) -> str:
    """Looks a word up."""
    return word


def count(text: str) -> int:
    """Counts letters."""
    return len(text)


def department(model: Model | str) -> Agent[Any]:
    refunds = Agent(
        name="refunds", instructions="You refund.", handoff_description="Refunds money.", model=model
    )
    billing = Agent(name="billing", instructions=lambda context, agent: "You bill.", model=model)
    translator = Agent(name="translator", instructions="You translate.", model=model)
    return Agent(
        name="triage",
        instructions="You route.",
        model=model,
        tools=[look_up, translator.as_tool(tool_name="translate", tool_description="Translates.")],
        handoffs=[refunds, handoff(billing, tool_description_override="To billing.")],
    )


def test_they_are_those_of_all_agents_that_can_be_reached(stage: Any) -> None:
    found = {one.name: (one.kind, one.value) for one in stage.adapter.tunables(department("gpt-5"))}
    instruction, model, tool = TunableKind.INSTRUCTION, TunableKind.MODEL, TunableKind.TOOL_DESCRIPTION
    assert found == {
        "triage.instructions": (instruction, "You route."),
        "triage.model": (model, "gpt-5"),
        "triage.tools.look_up": (tool, "Looks a word up."),
        "triage.tools.translate": (tool, "Translates."),
        "triage.handoffs.transfer_to_refunds": (
            tool,
            "Handoff to the refunds agent to handle the request. Refunds money.",
        ),
        "triage.handoffs.transfer_to_billing": (tool, "To billing."),
        "refunds.instructions": (instruction, "You refund."),
        "refunds.model": (model, "gpt-5"),
        "billing.model": (model, "gpt-5"),
        "translator.instructions": (instruction, "You translate."),
        "translator.model": (model, "gpt-5"),
    }


def test_a_circle_of_agents_is_no_trap(stage: Any) -> None:
    one, two = Agent(name="one", instructions="1"), Agent(name="two", instructions="2")
    one.handoffs, two.handoffs = [two], [one]
    names = [tunable.name for tunable in stage.adapter.tunables(one)]
    assert names[0] == "one.instructions"
    assert "two.handoffs.transfer_to_one" in names


def test_two_agents_of_one_name_are_refused(stage: Any) -> None:
    twins = [Agent(name="writer", instructions=text) for text in "ab"]
    with pytest.raises(TargetError, match=r"'boss\.handoffs\.transfer_to_writer' is there twice"):
        stage.adapter.tunables(Agent(name="boss", handoffs=twins))


async def test_all_of_them_reach_the_model(stage: Any, model: Model) -> None:
    agent = department(model)
    before = repr(agent)
    new = {
        one.name: PromptTemplate(template=f"New {one.name}.")
        for one in stage.adapter.tunables(agent)
        if one.kind is not TunableKind.MODEL
    }
    stage.replies = [
        ScriptedAnswer(tool_calls=(ScriptedToolCall(name="transfer_to_refunds"),)),
        ScriptedAnswer(text="refunded"),
    ]
    assert await stage.play(agent, stage.rollout(resources=new)) == "refunded"
    first, second = (request.json for request in stage.llm.requests)
    assert first["instructions"] == "New triage.instructions."
    assert {tool["name"]: tool["description"] for tool in first["tools"]} == {
        "look_up": "New triage.tools.look_up.",
        "translate": "New triage.tools.translate.",
        "transfer_to_refunds": "New triage.handoffs.transfer_to_refunds.",
        "transfer_to_billing": "New triage.handoffs.transfer_to_billing.",
    }
    assert second["instructions"] == "New refunds.instructions."
    assert repr(agent) == before


async def test_they_reach_agents_that_a_function_makes(stage: Any, model: Model) -> None:
    context = stage.rollout(resources={"writer.instructions": PromptTemplate(template="Write boldly.")})
    with in_rollout(context):
        result = await Runner.run(Agent(name="writer", instructions="Write.", model=model), "hi")
    (request,) = stage.llm.requests
    assert request.json["instructions"] == "Write boldly."
    assert result.last_agent.instructions == "Write."


async def test_the_users_code_meets_the_users_agent(stage: Any, model: Model) -> None:
    met: list[object] = []

    def enabled(context: Any, agent: Any) -> bool:
        met.append(agent)
        return True

    agent = Agent(name="writer", instructions="Write.", model=model)
    agent.tools = [function_tool(count, is_enabled=enabled)]
    new = {"writer.instructions": PromptTemplate(template="Write boldly.")}
    await stage.play(agent, stage.rollout(resources=new))
    assert stage.llm.requests[0].json["instructions"] == "Write boldly."
    assert met
    assert all(one is agent for one in met)


async def test_a_model_is_replaced_with_its_settings(stage: Any, model: Model) -> None:
    endpoint = ModelEndpoint(model="other", temperature=0.25, max_tokens=7)
    stage.endpoint_model = None
    context = stage.rollout(resources={"writer.model": endpoint})
    await stage.play(Agent(name="writer", model=model), context)
    (request,) = stage.llm.requests
    asked = request.json
    assert (asked["model"], asked["temperature"], asked["max_output_tokens"]) == ("other", 0.25, 7)
    assert model.model == "users-own-model"  # type: ignore[attr-defined]


async def test_a_resource_of_another_kind_is_an_error(stage: Any, model: Model) -> None:
    context = stage.rollout(resources={"writer.instructions": ModelEndpoint(model="m")})
    with pytest.raises(ConfigError, match=r"'writer\.instructions' must be a PromptTemplate"):
        await stage.play(Agent(name="writer", model=model), context)


async def test_a_web_socket_is_replaced_by_a_call(stage: Any, model: Any) -> None:
    sockets = OpenAIResponsesWSModel(model="m", openai_client=model._client)
    assert await stage.play(Agent(name="writer", model=sockets), stage.rollout()) == "ok"
    assert len(stage.llm.requests) == 1
