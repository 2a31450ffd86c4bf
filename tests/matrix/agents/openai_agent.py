"""An agent as the OpenAI SDK's quick start has it."""

from __future__ import annotations

from openai import AsyncOpenAI


async def agent(task: str) -> str:
    """Answers a question."""
    async with AsyncOpenAI() as client:
        completion = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[
                {"role": "system", "content": "You answer with one word."},
                {"role": "user", "content": task},
            ],
        )
    return completion.choices[0].message.content or ""
