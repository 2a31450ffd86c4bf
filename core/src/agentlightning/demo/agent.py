"""A calculator agent as the OpenAI SDK's tutorial would write it; it knows nothing of training."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Final, cast

from calculator import SYSTEM, TOOL_NAME, TOOLS, calculate  # its neighbour, found as for any script
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL: Final = "calculator-model"
MAX_CALLS: Final = 4
MAX_TOKENS: Final = 24


@functools.cache
def _client() -> AsyncOpenAI:
    """One client for the whole process: building it costs more than a call."""
    return AsyncOpenAI()


async def solve(task: dict[str, str]) -> str:
    """Answers an arithmetic question with the help of a calculator.

    Args:
        task: Its `question` is all that is read.

    Returns:
        The model's final answer, or nothing if it was still calling tools after the last call.
    """
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_CALLS):
        completion = await _client().chat.completions.create(
            model=MODEL,
            messages=messages,
            tools=cast("list[ChatCompletionToolParam]", TOOLS),
            max_completion_tokens=MAX_TOKENS,
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(cast("ChatCompletionMessageParam", message.model_dump(exclude_none=True)))
        for call in message.tool_calls:
            result = use(call.function.name, call.function.arguments) if call.type == "function" else "error"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


def use(name: str, arguments: str) -> str:
    """Runs a tool; what the model got wrong it is told, so that it can try again."""
    if name != TOOL_NAME:
        return "error: no such tool"
    try:
        return str(calculate(json.loads(arguments)["expression"]))
    except (ValueError, KeyError, TypeError):
        return "error: no valid expression"
