"""The agent of the runner campaign: does next to nothing, for a moment."""

from __future__ import annotations

import asyncio


async def agent(task: float) -> float:
    """Takes as many seconds as the task says, and returns a reward."""
    await asyncio.sleep(task)
    return 1.0
