"""The calculator agent in surroundings that take their time: most answer at once, a few after seconds."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from demo_agent import solve as solve_at_once

MEAN_S: Final = 0.7
LONGEST_S: Final = 4.0


async def solve(task: dict[str, str]) -> str:
    """Waits, as for a page that loads, then answers."""
    await asyncio.sleep(min(random.expovariate(1 / MEAN_S), LONGEST_S))
    return await solve_at_once(task)
