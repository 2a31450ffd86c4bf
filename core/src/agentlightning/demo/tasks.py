"""Arithmetic questions and recorded demonstrations: pure functions of a seed."""

import json
import random
import zlib
from dataclasses import dataclass
from typing import Final

from agentlightning.demo.calculator import OPERATORS, SYSTEM, TOOL_NAME, TOOLS, calculate

LARGEST: Final = 99
"""No operand, intermediate result or answer is larger."""

TWO_STEP_SHARE: Final = 0.5
"""Share of the questions that need the calculator twice."""

FROM_THE_HEAD_SHARE: Final = 0.55
"""Share of the demonstrations whose operator guessed the answer and never used the calculator."""

HASTY_SHARE: Final = 0.45
"""Share of the remaining two-step demonstrations whose operator stopped after the first step."""

_HELD_OUT, _DEMONSTRATED, _TRAINED = range(4), range(4, 7), range(7, 16)
_BUCKETS: Final = 16

_ONE_STEP: Final = (
    "What is {a} {x} {b}?",
    "Calculate {a} {x} {b}.",
    "How much is {a} {x_name} {b}?",
    "Please work out {a} {x_name} {b}.",
)
_TWO_STEPS: Final = (
    "Take {a}, {x_verb} {b}, then {y_verb} {c}.",
    "Start with {a}. First {x_verb} {b}, then {y_verb} {c}.",
)
_NAMES: Final = {"+": "plus", "-": "minus", "*": "times"}
_VERBS: Final = {"+": "add", "-": "subtract", "*": "multiply by"}


@dataclass(frozen=True, slots=True)
class _Problem:
    """The arithmetic behind a question: steps that each start from the result of the one before."""

    start: int
    steps: tuple[tuple[str, int], ...]

    def expressions(self) -> list[str]:
        """What a careful operator types into the calculator, in order."""
        expressions, value = [], self.start
        for symbol, operand in self.steps:
            expressions.append(f"{value}{symbol}{operand}")
            value = OPERATORS[symbol](value, operand)
        return expressions

    def answer(self) -> int:
        """The result of the last step."""
        return calculate(self.expressions()[-1])


def training_tasks(seed: int, count: int) -> list[dict[str, str]]:
    """Tasks to train on, each with a `question` and its `answer`; drawn with replacement."""
    rng = random.Random(f"training-{seed}")
    return [_task(rng, _TRAINED) for _ in range(count)]


def held_out_tasks(seed: int, count: int) -> list[dict[str, str]]:
    """Tasks to evaluate on.

    Whatever the seeds, no arithmetic problem here is ever trained on or demonstrated, not even in other words.
    """
    rng = random.Random(f"held-out-{seed}")
    return [_task(rng, _HELD_OUT) for _ in range(count)]


def demonstrations(seed: int, count: int) -> list[dict[str, object]]:
    """Recorded conversations of the agent, operated by a sloppy human.

    As in many real logs, only some are right: the operator often guesses instead of using the calculator, and often
    stops after the first of two steps. What is typed into the calculator, and what it returns, is always right.

    Returns:
        Conversations with their `messages` and `tools`, exactly as the agent sends them, and the final answer.
    """
    rng = random.Random(f"demonstrations-{seed}")
    return [_demonstration(rng) for _ in range(count)]


def grade(task: dict[str, str], output: str) -> float:
    """1.0 when the output is the task's answer and nothing else, otherwise 0.0."""
    return float(output.strip() == task["answer"])


def _task(rng: random.Random, buckets: range) -> dict[str, str]:
    problem = _problem(rng, buckets)
    return {"question": _question(rng, problem), "answer": str(problem.answer())}


def _problem(rng: random.Random, buckets: range) -> _Problem:
    """Draws until the problem is in one of the buckets, by a hash that no seed changes."""
    length = 2 if rng.random() < TWO_STEP_SHARE else 1
    symbols = rng.choices(tuple(OPERATORS), k=length)
    while True:
        problem = _draw(rng, symbols)
        if problem is not None and zlib.crc32(repr(problem).encode()) % _BUCKETS in buckets:
            return problem


def _draw(rng: random.Random, symbols: list[str]) -> _Problem | None:
    value = start = rng.randint(2, LARGEST)
    steps = []
    for symbol in symbols:
        operand = rng.randint(2, 9 if symbol == "*" else LARGEST)
        value = OPERATORS[symbol](value, operand)
        if not 0 <= value <= LARGEST:
            return None
        steps.append((symbol, operand))
    return _Problem(start, tuple(steps))


def _question(rng: random.Random, problem: _Problem) -> str:
    (x, b), (y, c) = problem.steps[0], problem.steps[-1]
    wording = rng.choice(_ONE_STEP if len(problem.steps) == 1 else _TWO_STEPS)
    words = {"x": x, "x_name": _NAMES[x], "x_verb": _VERBS[x], "y": y, "y_verb": _VERBS[y]}
    return wording.format(a=problem.start, b=b, c=c, **words)


def _demonstration(rng: random.Random) -> dict[str, object]:
    problem = _problem(rng, _DEMONSTRATED)
    messages: list[dict[str, object]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": _question(rng, problem)},
    ]
    guesses = rng.random() < FROM_THE_HEAD_SHARE
    hurries = rng.random() < HASTY_SHARE
    answer = rng.randint(0, LARGEST)
    for number, expression in enumerate(problem.expressions()[: 0 if guesses else 1 if hurries else None]):
        answer = calculate(expression)
        messages += _tool_use(f"call_{number}", expression, answer)
    messages.append({"role": "assistant", "content": str(answer)})
    return {"messages": messages, "tools": TOOLS}


def _tool_use(call_id: str, expression: str, result: int) -> list[dict[str, object]]:
    function = {"name": TOOL_NAME, "arguments": json.dumps({"expression": expression})}
    call = {"id": call_id, "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": str(result)},
    ]
