"""Tunables of agents and chains, and their values in rollouts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from agentlightning.agents import TunableKind
from agentlightning.capture import in_rollout
from agentlightning.errors import ConfigError, TargetError
from agentlightning.types import ModelEndpoint, PromptTemplate, Weights
from lightning_adapter_langchain import LangChainAdapter

QUESTION = {"messages": [{"role": "user", "content": "hi"}]}
ROLE = SystemMessage("You are kind.")


@tool
def look(thing: str) -> str:
    """Look at a thing."""
    return thing


def text(template: str) -> PromptTemplate:
    return PromptTemplate(template=template)


def chain(model: Any) -> Any:
    prompt = ChatPromptTemplate.from_messages([("system", "Speak {language}."), ("human", "{question}")])
    return prompt.partial(language="German") | model


def sent(stage: Any, place: int = -1) -> dict[str, Any]:
    return dict(stage.llm.requests[place].json)


def test_tunables_of_an_agent(stage: Any) -> None:
    agent = create_agent(stage.model(), tools=[look], system_prompt="You help.", name="helper")
    found = {tunable.name: tunable for tunable in stage.adapter.tunables(agent)}
    assert {name: (one.kind, one.value) for name, one in found.items()} == {
        "helper.system_prompt": (TunableKind.SYSTEM_PROMPT, "You help."),
        "helper.model": (TunableKind.MODEL, "own-model"),
        "look.description": (TunableKind.TOOL_DESCRIPTION, "Look at a thing."),
    }
    assert all(one.place.startswith("CompiledStateGraph.nodes[") for one in found.values())
    assert stage.adapter.tunables(agent) == list(found.values())


def test_tunables_of_a_chain(stage: Any) -> None:
    model = stage.model()

    def ask(question: str) -> str:
        return model.bind_tools([look]).invoke([ROLE, ("user", question)]).text

    first = {one.name: one.value for one in stage.adapter.tunables(chain(model) | RunnableLambda(ask))}
    assert first == {
        "system_prompt": "Speak {language}.",
        "system_prompt#2": "You are kind.",
        "model": "own-model",
        "look.description": "Look at a thing.",
    }
    bound = stage.adapter.tunables(model.bind_tools([look]))
    assert [(one.name, one.value) for one in bound] == [
        ("model", "own-model"),
        ("look.description", "Look at a thing."),
    ]


@pytest.mark.parametrize("how", ["sync", "async", "stream"])
async def test_an_agents_texts_are_the_rollouts(stage: Any, how: str) -> None:
    agent = create_agent(stage.model(), tools=[look], system_prompt="You help.", name="helper")
    resources = {
        "helper.system_prompt": text("You rule {as it is}."),
        "look.description": text("Stare."),
        "helper.model": ModelEndpoint(model="other", temperature=0.25, max_tokens=7),
    }
    context = stage.rollout(resources=resources)
    with in_rollout(context), stage.adapter.bind(agent, context) as bound:
        if how == "sync":
            bound.invoke(QUESTION)
        elif how == "async":
            await bound.ainvoke(QUESTION)
        else:
            for _ in bound.stream(QUESTION, stream_mode="messages"):
                pass
    request = sent(stage)
    assert request["messages"][0]["content"] == "You rule {as it is}."
    assert request["tools"][0]["function"]["description"] == "Stare."
    assert (request["model"], request["temperature"]) == ("other", 0.25)
    assert request["max_completion_tokens"] == 7
    with in_rollout(stage.rollout()):
        agent.invoke(QUESTION)
    request = sent(stage)
    assert request["messages"][0]["content"] == "You help."
    assert request["tools"][0]["function"]["description"] == "Look at a thing."
    assert request["model"] == "own-model"


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_chains_template_is_the_rollouts(stage: Any, how: str) -> None:
    agent = chain(stage.model())
    context = stage.rollout(resources={"system_prompt": text("Answer in {language} only.")})
    with in_rollout(context), stage.adapter.bind(agent, context) as bound:
        if how == "sync":
            bound.invoke({"question": "hi"})
        else:
            await bound.ainvoke({"question": "hi"})
    assert sent(stage)["messages"][0]["content"] == "Answer in German only."
    assert "Speak {language}." in [one.value for one in stage.adapter.tunables(agent)]


def test_messages_that_frame_an_input_are_instructions(stage: Any) -> None:
    messages = [
        ("human", "What is 2 + 2?"),
        ("ai", "4, of {language}"),
        ("human", "Context: {context}\nAnswer: {question}"),
        ("human", "{question}"),
        ("human", "<{{not a place}}> {question}!"),
    ]
    agent = ChatPromptTemplate.from_messages(messages) | stage.model()
    found = [one for one in stage.adapter.tunables(agent) if one.kind is TunableKind.INSTRUCTION]
    assert [(one.name, one.value) for one in found] == [
        ("instruction", "Context: {context}\nAnswer: {question}"),
    ]


@pytest.mark.parametrize("how", ["sync", "async", "batch"])
async def test_a_chains_instruction_is_the_rollouts(stage: Any, how: str) -> None:
    agent = ChatPromptTemplate.from_template("Tell me a joke about {topic}") | stage.model()
    context = stage.rollout(resources={"instruction": text("A pun on {topic}:")})
    with in_rollout(context), stage.adapter.bind(agent, context) as bound:
        if how == "sync":
            bound.invoke({"topic": "owls"})
        elif how == "async":
            await bound.ainvoke({"topic": "owls"})
        else:
            bound.batch([{"topic": "owls"}])
    assert sent(stage)["messages"][0]["content"] == "A pun on owls:"
    with in_rollout(stage.rollout()):
        agent.invoke({"topic": "owls"})
    assert sent(stage)["messages"][0]["content"] == "Tell me a joke about owls"
    wrong = stage.rollout(resources={"instruction": text("A pun on {theme}:")})
    with pytest.raises(ConfigError, match="theme"), in_rollout(wrong), stage.adapter.bind(agent, wrong):
        pass


async def test_sixteen_rollouts_have_texts_of_their_own(stage: Any) -> None:
    agent = create_agent(stage.model(), tools=[], system_prompt="You help.", name="helper")

    async def run(number: int) -> None:
        resources = {"helper.system_prompt": text(f"You are {number}.")}
        context = stage.rollout(str(number), resources=resources)
        with in_rollout(context), stage.adapter.bind(agent, context):
            for _ in range(2):
                await agent.ainvoke(QUESTION)

    await asyncio.gather(*map(run, range(16)))
    seen = {(r.headers["authorization"], r.json["messages"][0]["content"]) for r in stage.llm.requests}
    assert seen == {(f"Bearer key-{number}", f"You are {number}.") for number in range(16)}


async def test_everything_is_as_before_after_failure_and_cancellation(stage: Any) -> None:
    agent = chain(stage.model())
    context = stage.rollout(resources={"system_prompt": text("New.")})
    for error in (ValueError, asyncio.CancelledError):
        with pytest.raises(error), in_rollout(context), stage.adapter.bind(agent, context):
            raise error
    with in_rollout(context):
        await agent.ainvoke({"question": "hi"})
    assert sent(stage)["messages"][0]["content"] == "Speak German."


def test_equal_texts_of_two_agents_are_not_mixed_up(stage: Any) -> None:
    one = create_agent(stage.model(), tools=[], system_prompt="You help.", name="one")
    two = create_agent(stage.model(), tools=[], system_prompt="You help.", name="two")
    both = RunnableLambda(lambda task: (one.invoke(task), two.invoke(task)))
    context = stage.rollout(resources={"two.system_prompt": text("You rule.")})
    with in_rollout(context), stage.adapter.bind(both, context):
        both.invoke(QUESTION)
    assert [request.json["messages"][0]["content"] for request in stage.llm.requests] == [
        "You help.",
        "You rule.",
    ]


@pytest.mark.parametrize(
    ("name", "resource", "message"),
    [
        ("system_prompt", text("In {tongue}."), r"placeholders \['tongue'\].*\['language'\]"),
        ("system_prompt", Weights(path="x", version=1), "kind 'weights'"),
        ("model", Weights(path="x", version=1), "kind 'weights'"),
    ],
)
def test_a_resource_that_does_not_fit_is_refused(stage: Any, name: str, resource: Any, message: str) -> None:
    agent = chain(stage.model())
    context = stage.rollout(resources={name: resource})
    with pytest.raises(ConfigError, match=message), stage.adapter.bind(agent, context):
        pass


async def test_agents_as_functions(stage: Any) -> None:
    adapter = stage.adapter
    agent = create_agent(stage.model(), tools=[])
    with in_rollout(stage.rollout()):
        found = await adapter.as_function(agent)("hi")
        assert found == {
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]
        }
        assert await adapter.as_function(agent)(QUESTION) == found
        answer = {"role": "assistant", "content": "ok"}
        assert await adapter.as_function(stage.model())("hi") == answer
        assert await adapter.as_function(stage.model().bind(stop=["x"]))(QUESTION) == answer
        assert await adapter.as_function(chain(stage.model()))({"question": "hi"}) == answer
        assert await adapter.as_function(RunnableLambda(lambda number: (number, {"b": {1}})))(1) == [
            1,
            {"b": [1]},
        ]


def test_unknown_objects() -> None:
    adapter = LangChainAdapter()
    assert adapter.accepts(FakeListChatModel(responses=[]))
    assert not adapter.accepts(len)
    with pytest.raises(TargetError, match="nothing of LangChain"):
        adapter.as_function(3)
