"""An agent as the OpenAI Agents SDK's quick start has it."""

from __future__ import annotations

from agents import Agent

agent = Agent(name="Guide", instructions="You answer with one word.", model="gpt-4o-mini")
