"""Three nodes that ask a model in turn, as LangGraph's tutorial on workflows has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_core.messages import SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

model = ChatOpenAI(model="gpt-4o-mini")
Answer = dict[str, list[object]]


def asking(prompt: str) -> Callable[[MessagesState], Awaitable[Answer]]:
    """A node with a prompt of its own."""

    async def node(state: MessagesState) -> Answer:
        return {"messages": [await model.ainvoke([SystemMessage(prompt), *state["messages"]])]}

    return node


graph = StateGraph(MessagesState)
graph.add_node("planner", asking("You plan."))
graph.add_node("writer", asking("You write."))
graph.add_node("critic", asking("You judge."))
graph.add_edge(START, "planner")
graph.add_edge("planner", "writer")
graph.add_edge("writer", "critic")
graph.add_edge("critic", END)
agent = graph.compile()
