"""A crew as CrewAI's quick start has it."""

from __future__ import annotations

from crewai import LLM, Agent, Crew, Task

guide = Agent(
    role="Guide",
    goal="Answer with one word.",
    backstory="You know the way.",
    llm=LLM(model="openai/gpt-4o-mini"),
)
task = Task(description="{task}", expected_output="One word.", agent=guide)
agent = Crew(agents=[guide], tasks=[task])
