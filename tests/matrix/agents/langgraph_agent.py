"""A graph as LangGraph's quick start has it."""

from __future__ import annotations

from langchain_core.messages import SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

model = ChatOpenAI(model="gpt-4o-mini")


async def answer(state: MessagesState) -> dict[str, list[object]]:
    """The only node: asks the model."""
    return {
        "messages": [await model.ainvoke([SystemMessage("You answer with one word."), *state["messages"]])]
    }


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_edge("answer", END)
agent = graph.compile()
