"""An agent as LangChain's quick start has it."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

agent = create_agent(ChatOpenAI(model="gpt-4o-mini"), tools=[], system_prompt="You answer with one word.")
