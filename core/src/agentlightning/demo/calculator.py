"""What the agent and its recorded demonstrations share: the system prompt, the tool and its schema."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

SYSTEM: Final = "Use the calculator for every step."
"""The agent's system prompt."""

TOOL_NAME: Final = "calculator"
"""The name of the agent's only tool."""

TOOLS: Final[list[dict[str, object]]] = [
    {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": "Works out one operation (+, - or *) on two whole numbers.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string", "description": "For example 37+45"}},
                "required": ["expression"],
                "additionalProperties": False,
            },
        },
    }
]
"""The agent's tools, as `chat.completions.create(tools=...)` takes them."""

OPERATORS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
"""The operations that the calculator knows, by symbol."""

_EXPRESSION: Final = re.compile(r"\s*(-?[0-9]{1,9})\s*([-+*])\s*(-?[0-9]{1,9})\s*")


def calculate(expression: str) -> int:
    """Works out one operation on two whole numbers.

    Args:
        expression: For example `37+45`.

    Raises:
        ValueError: The expression is anything else.
    """
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        raise ValueError("expected two numbers and one of + - *")
    left, symbol, right = match.groups()
    return OPERATORS[symbol](int(left), int(right))
