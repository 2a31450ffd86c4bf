"""Nodes, branches, subgraphs, handoffs and resumed graphs, written as LangGraph's tutorials write them."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from agentlightning import semconv
from agentlightning.capture import in_rollout
from agentlightning.errors import TargetError
from agentlightning.testing import ScriptedAnswer, ScriptedToolCall
from agentlightning.types import PromptTemplate, SpanStatus
from lightning_adapter_langchain import LangChainAdapter
from lightning_adapter_langgraph import LangGraphAdapter

QUESTION = {"messages": [{"role": "user", "content": "go"}]}


def asking(model: Any, role: str = "You help.") -> Any:
    """A node that asks a model."""
    system = SystemMessage(role)

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke([system, *state["messages"]])]}

    return ask


def near(stage: Any, span: Any, key: str) -> object:
    """What is nearest to a span under a name, as the pipeline looks for it."""
    by_id = {one.span_id: one for one in stage.spans}
    while span is not None:
        if key in span.attributes:
            return span.attributes[key]
        span = by_id.get(span.parent_id)
    return None


def chats(stage: Any) -> list[tuple[object, object]]:
    """Agent and location of each chat, in order."""
    found = [span for span in stage.spans if span.operation == semconv.OPERATION_CHAT]
    found.sort(key=lambda span: span.start_ns)
    return [(near(stage, span, semconv.AGENT_NAME), near(stage, span, semconv.LOCATION)) for span in found]


def decisions(stage: Any) -> list[tuple[object, ...]]:
    """Agent, name, options and choice of each decision, in order."""
    found = [span for span in stage.spans if span.operation == semconv.OPERATION_DECISION]
    keys = (semconv.DECISION_NAME, semconv.DECISION_OPTIONS, semconv.DECISION_CHOICE)
    return [
        (near(stage, span, semconv.AGENT_NAME), *(span.attributes.get(key) for key in keys)) for span in found
    ]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_branch_is_a_decision_of_its_node(stage: Any, how: str) -> None:
    def check(state: MessagesState) -> Literal["pass", "fail"]:
        return "fail" if len(state["messages"]) < 3 else "pass"

    builder = StateGraph(MessagesState)
    builder.add_node("joke", asking(stage.model()))
    builder.add_node("improve", asking(stage.model()))
    builder.add_edge(START, "joke")
    builder.add_conditional_edges("joke", check, {"fail": "improve", "pass": END})
    builder.add_edge("improve", "joke")
    graph = builder.compile()
    with in_rollout(stage.rollout()):
        if how == "sync":
            graph.invoke(QUESTION)
        else:
            await graph.ainvoke(QUESTION)
    assert chats(stage) == [("joke", "joke"), ("improve", "improve"), ("joke", "joke")]
    assert decisions(stage) == [
        ("joke", "check", ["improve", END], "improve"),
        ("joke", "check", ["improve", END], END),
    ]
    assert stage.tree() == [
        "LangGraph",
        "  joke",
        "    chat own-model",
        "    decide check",
        "  improve",
        "    chat own-model",
        "  joke",
        "    chat own-model",
        "    decide check",
    ]


def test_branches_without_names_are_told_apart(stage: Any) -> None:
    builder = StateGraph(MessagesState).add_node("plan", lambda _: {}).add_node("write", lambda _: {})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda _: "write", ["write", END])
    builder.add_conditional_edges("write", lambda _: "end", {"end": END, "again": "plan"})
    with in_rollout(stage.rollout()):
        builder.compile().invoke({"messages": []})
    decided = [span.attributes for span in stage.of(semconv.OPERATION_DECISION)]
    names = [found[semconv.DECISION_NAME] for found in decided]
    assert names == ["plan.branch", "write.branch"]
    assert [found[semconv.DECISION_CHOICE] for found in decided] == ["write", END]


def test_a_subgraphs_nodes_have_their_place_in_it(stage: Any) -> None:
    inner = StateGraph(MessagesState).add_node("search", asking(stage.model())).add_edge(START, "search")
    outer = StateGraph(MessagesState).add_node("research", inner.compile()).add_edge(START, "research")
    with in_rollout(stage.rollout()):
        outer.compile().invoke(QUESTION)
    assert chats(stage) == [("search", "research/search")]


class Topics(TypedDict):
    topics: list[str]
    jokes: Annotated[list[str], operator.add]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_parallel_branches_are_apart(stage: Any, how: str) -> None:
    model = stage.model()

    def fan_out(state: Topics) -> list[Send]:
        return [Send("joke", {"topic": topic}) for topic in state["topics"]]

    def joke(state: dict[str, str]) -> dict[str, Any]:
        return {"jokes": [model.invoke(state["topic"]).text]}

    builder = StateGraph(Topics).add_node("plan", lambda _: {}).add_node("joke", joke)
    builder.add_edge(START, "plan").add_conditional_edges("plan", fan_out, ["joke"])
    graph = builder.compile()
    with in_rollout(stage.rollout()):
        asked = {"topics": ["cats", "dogs", "fish"], "jokes": []}
        found = graph.invoke(asked) if how == "sync" else await graph.ainvoke(asked)
    assert found["jokes"] == ["ok"] * 3
    assert chats(stage) == [("joke", "joke")] * 3
    parents = {span.parent_id for span in stage.spans if span.operation == semconv.OPERATION_CHAT}
    assert len(parents) == 3
    assert decisions(stage) == [("plan", "fan_out", ["joke"], ["joke"] * 3)]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_graph_that_is_interrupted_and_resumed_in_the_same_rollout(stage: Any, how: str) -> None:
    def approve(state: MessagesState) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": interrupt("ok?")}]}

    builder = StateGraph(MessagesState)
    builder.add_sequence([("draft", asking(stage.model())), ("approve", approve)])
    builder.add_node("send", asking(stage.model()))
    builder.add_edge(START, "draft").add_edge("approve", "send")
    graph = builder.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    with in_rollout(stage.rollout()):
        if how == "sync":
            graph.invoke(QUESTION, thread)
            found = graph.invoke(Command(resume="yes"), thread)
        else:
            await graph.ainvoke(QUESTION, thread)
            found = await graph.ainvoke(Command(resume="yes"), thread)
    assert [message.text for message in found["messages"]] == ["go", "ok", "yes", "ok"]
    assert chats(stage) == [("draft", "draft"), ("send", "send")]
    assert stage.tree() == [
        "LangGraph",
        "  draft",
        "    chat own-model",
        "  approve",
        "LangGraph",
        "  approve",
        "  send",
        "    chat own-model",
    ]
    assert {span.status for span in stage.spans} == {SpanStatus.UNSET}
    assert not any(semconv.CANCELLED in span.attributes for span in stage.spans)


def test_a_supervisor_of_nodes_and_agents(stage: Any) -> None:
    model = stage.model()

    def supervisor(state: MessagesState) -> Command[Literal["writer", "checker", "__end__"]]:
        goto = model.invoke(state["messages"]).text
        return Command(goto=goto, update={"messages": [{"role": "user", "content": goto}]})

    writer = create_agent(model, tools=[], system_prompt="You write.", name="author")
    builder = StateGraph(MessagesState).add_node("supervisor", supervisor).add_node("writer", writer)
    builder.add_node("checker", create_agent(model, tools=[]))
    builder.add_edge(START, "supervisor").add_edge("writer", "supervisor").add_edge("checker", "supervisor")
    stage.replies = [ScriptedAnswer(text=text) for text in ("writer", "story", "checker", "fine", "__end__")]
    with in_rollout(stage.rollout()):
        builder.compile().invoke(QUESTION)
    assert chats(stage) == [
        ("supervisor", "supervisor"),
        ("author", "writer/model"),
        ("supervisor", "supervisor"),
        ("checker", "checker/model"),
        ("supervisor", "supervisor"),
    ]
    ends = ["writer", "checker", "__end__"]
    assert decisions(stage) == [
        ("supervisor", "supervisor.goto", ends, choice) for choice in ("writer", "checker", "__end__")
    ]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_handoff_between_agents(stage: Any, how: str) -> None:
    @tool
    def transfer_to_bob() -> Command[Any]:
        """Hand over to Bob."""
        return Command(goto="bob", graph=Command.PARENT, update={"messages": [("user", "yours")]})

    alice = create_agent(stage.model(), tools=[transfer_to_bob], name="alice")
    bob = create_agent(stage.model(), tools=[], name="bob")
    graph = StateGraph(MessagesState).add_node("alice", alice).add_node("bob", bob).add_edge(START, "alice")
    call = ScriptedToolCall(name="transfer_to_bob", arguments={})
    stage.replies = [ScriptedAnswer(tool_calls=(call,)), ScriptedAnswer(text="done")]
    with in_rollout(stage.rollout()):
        if how == "sync":
            graph.compile().invoke(QUESTION)
        else:
            await graph.compile().ainvoke(QUESTION)
    assert chats(stage) == [("alice", "alice/model"), ("bob", "bob/model")]
    assert decisions(stage) == [("alice", "tools.goto", None, "bob")]
    assert {span.status for span in stage.spans} == {SpanStatus.UNSET}
    assert semconv.TOOL_NAME in stage.one(semconv.OPERATION_TOOL).attributes


async def test_workflows_of_functions(stage: Any) -> None:
    model = stage.model()

    @task
    def write(topic: str) -> Any:
        return model.invoke(topic).text

    @entrypoint()
    def workflow(topic: str) -> str:
        return " ".join(one.result() for one in [write(topic), write(topic)])

    with in_rollout(stage.rollout()):
        assert await stage.adapter.as_function(workflow)("cats") == "ok ok"
    assert [agent for agent, _ in chats(stage)] == ["write", "write"]


def test_a_node_that_fails(stage: Any) -> None:
    def fail(state: MessagesState) -> dict[str, Any]:
        raise KeyError("x")

    graph = StateGraph(MessagesState).add_node("fail", fail).add_edge(START, "fail").compile()
    with in_rollout(stage.rollout()), pytest.raises(KeyError):
        graph.invoke(QUESTION)
    assert [(span.name, span.error) for span in stage.spans] == [
        ("fail", "KeyError: 'x'"),
        ("LangGraph", "KeyError: 'x'"),
    ]


async def test_sixteen_graphs_at_once_have_texts_and_spans_of_their_own(stage: Any) -> None:
    builder = StateGraph(MessagesState).add_node("writer", asking(stage.model(), "You write."))
    builder.add_node("checker", asking(stage.model(), "You check."))
    graph = builder.add_edge(START, "writer").add_edge("writer", "checker").compile()
    assert [(one.name, one.value) for one in stage.adapter.tunables(graph)] == [
        ("writer.model", "own-model"),
        ("writer.system_prompt", "You write."),
        ("checker.model", "own-model"),
        ("checker.system_prompt", "You check."),
    ]

    async def run(number: int) -> None:
        resources = {"writer.system_prompt": PromptTemplate(template=f"You are {number}.")}
        context = stage.rollout(str(number), resources=resources)
        with in_rollout(context), stage.adapter.bind(graph, context) as bound:
            await stage.adapter.as_function(bound)("go")

    await asyncio.gather(*map(run, range(16)))
    seen = sorted(
        (request.headers["authorization"], request.json["messages"][0]["content"])
        for request in stage.llm.requests
    )
    expected = [(f"Bearer key-{number}", f"You are {number}.") for number in range(16)]
    expected += [(f"Bearer key-{number}", "You check.") for number in range(16)]
    assert seen == sorted(expected)
    for number in range(16):
        mine = [span for span in stage.spans if span.attempt_id == str(number)]
        assert sorted(span.name for span in mine) == [
            "LangGraph",
            "chat own-model",
            "chat own-model",
            "checker",
            "writer",
        ]


async def test_a_graph_with_a_checkpointer_as_a_function(stage: Any) -> None:
    builder = StateGraph(MessagesState).add_node("ask", asking(stage.model())).add_edge(START, "ask")
    graph = builder.compile(checkpointer=InMemorySaver())
    function = stage.adapter.as_function(graph)
    with in_rollout(stage.rollout()):
        answers = [await function("hi"), await function("hi")]
    assert (
        answers
        == [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]}] * 2
    )


def test_unknown_objects() -> None:
    adapter = LangGraphAdapter()
    builder = StateGraph(MessagesState).add_node("x", lambda _: {}).add_edge(START, "x")
    assert adapter.accepts(builder.compile())
    assert not adapter.accepts(builder)
    with pytest.raises(TargetError, match=r"no compiled graph.*compile\(\)"):
        adapter.as_function(builder)


def test_both_adapters_bind_a_graph_once(stage: Any) -> None:
    builder = StateGraph(MessagesState).add_node("ask", asking(stage.model(), "Old."))
    graph = builder.add_edge(START, "ask").compile()
    context = stage.rollout(resources={"ask.system_prompt": PromptTemplate(template="New.")})
    langchain = LangChainAdapter()
    with (
        in_rollout(context),
        stage.adapter.bind(graph, context) as once,
        langchain.bind(once, context) as twice,
    ):
        twice.invoke(QUESTION)
    (request,) = stage.llm.requests
    assert request.json["messages"][0]["content"] == "New."
