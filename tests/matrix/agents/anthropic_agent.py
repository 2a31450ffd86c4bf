"""An agent as the Anthropic SDK's quick start has it."""

from __future__ import annotations

from anthropic import AsyncAnthropic


async def agent(task: str) -> str:
    """Answers a question."""
    async with AsyncAnthropic() as client:
        message = await client.messages.create(
            model="claude-sonnet-4-5",
            max_tokens=64,
            system="You answer with one word.",
            messages=[{"role": "user", "content": task}],
        )
    return "".join(block.text for block in message.content if block.type == "text")
