"""Two agents that learn what to decide, without any language model: one picks a tool, one picks branches."""

from __future__ import annotations

import random
import zlib

import agentlightning as agl

TOOLS = {
    "calculator": "arithmetic on numbers",
    "search": "facts about the world",
    "calendar": "dates and appointments",
}
WORKS = {"sum": "calculator", "fact": "search", "date": "calendar"}


async def pick_tool(task: dict[str, str]) -> float:
    """Answers with a tool: the right one mostly works, the others hardly ever do."""
    tool = agl.decide(
        "tool",
        options=[{"name": name, "description": text} for name, text in TOOLS.items()],
        context={"kind": task["kind"], "question": task["question"]},
    )
    luck = random.Random(zlib.crc32(task["question"].encode())).random()
    return float(luck < (0.9 if tool["name"] == WORKS[task["kind"]] else 0.1))


def take_branch(task: dict[str, int]) -> float:
    """Plans and then answers: a plan costs a little, and pays where a question is long."""
    with agl.operation("plan"):
        plan = agl.decide(
            "plan", options=["answer at once", "plan first"], context={"long": task["words"] > 20}
        )
    with agl.operation("answer"):
        style = agl.decide("style", options=["brief", "thorough"], context={"planned": plan == "plan first"})
    if task["words"] > 20:
        return 0.9 if (plan, style) == ("plan first", "thorough") else 0.2
    return 0.8 if (plan, style) == ("answer at once", "brief") else 0.3


def tool_tasks(count: int, *, start: int = 0) -> list[dict[str, str]]:
    """Questions of three kinds."""
    kinds = sorted(WORKS)
    return [
        {"kind": kinds[number % 3], "question": f"question {number} about a {kinds[number % 3]}"}
        for number in range(start, start + count)
    ]


def branch_tasks(count: int, *, start: int = 0) -> list[dict[str, int]]:
    """Questions of different lengths."""
    return [{"words": 5 + (number * 7) % 40} for number in range(start, start + count)]
