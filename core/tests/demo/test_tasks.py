"""The demo's tasks: deterministic, apart from each other, and true to the calculator and the agent."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentlightning.demo.calculator import SYSTEM, TOOL_NAME, TOOLS, calculate
from agentlightning.demo.tasks import demonstrations, grade, held_out_tasks, training_tasks

COUNT = 400
_SYMBOLS = {
    "plus": "+",
    "add": "+",
    "minus": "-",
    "subtract": "-",
    "times": "*",
    "multiply": "*",
    "+": "+",
    "-": "-",
    "*": "*",
}


def arithmetic(question: str) -> str:
    """The numbers and operations of a question, whatever its words."""
    parts = re.findall(r"[0-9]+|[-+*]|[a-z]+", question)
    return " ".join(_SYMBOLS.get(part, part) for part in parts if part.isdigit() or part in _SYMBOLS)


def careful_expressions(question: str) -> list[str]:
    """The calculator's input, step by step, worked out from the question alone."""
    start, *rest = arithmetic(question).split()
    value, expressions = start, []
    for symbol, operand in zip(rest[::2], rest[1::2], strict=True):
        expressions.append(f"{value}{symbol}{operand}")
        value = str(calculate(expressions[-1]))
    return expressions


def messages_of(demonstration: dict[str, object]) -> list[dict[str, Any]]:
    messages = demonstration["messages"]
    assert isinstance(messages, list)
    return messages


def tool_calls_of(demonstration: dict[str, object]) -> list[dict[str, Any]]:
    return [call for message in messages_of(demonstration) for call in message.get("tool_calls") or []]


@pytest.mark.parametrize("make", [training_tasks, held_out_tasks, demonstrations])
def test_one_seed_gives_one_result(make: Any) -> None:
    assert make(3, 50) == make(3, 50)
    assert make(3, 50) != make(4, 50)


@pytest.mark.parametrize("make", [training_tasks, held_out_tasks, demonstrations])
def test_fewer_are_the_first_of_more(make: Any) -> None:
    assert make(3, 20) == make(3, 50)[:20]


def test_held_out_problems_are_never_trained_or_demonstrated_under_any_seed() -> None:
    held_out = {arithmetic(task["question"]) for task in held_out_tasks(0, COUNT)}
    seen = {arithmetic(task["question"]) for seed in range(5) for task in training_tasks(seed, 5 * COUNT)}
    seen |= {
        arithmetic(messages_of(one)[1]["content"])
        for seed in range(5)
        for one in demonstrations(seed, 5 * COUNT)
    }
    assert not held_out & seen


@pytest.mark.parametrize("make", [training_tasks, held_out_tasks])
def test_answers_are_what_the_calculator_says(make: Any) -> None:
    for task in make(1, COUNT):
        assert task["answer"] == str(calculate(careful_expressions(task["question"])[-1]))


def test_about_half_of_the_tasks_need_two_steps() -> None:
    steps = [len(careful_expressions(task["question"])) for task in held_out_tasks(0, COUNT)]
    assert set(steps) == {1, 2}
    assert 0.4 < steps.count(2) / COUNT < 0.6


def test_demonstrations_start_as_the_agent_does() -> None:
    for one in demonstrations(0, COUNT):
        system, user = messages_of(one)[:2]
        assert system == {"role": "system", "content": SYSTEM}
        assert user["role"] == "user"
        assert one["tools"] == TOOLS


def test_demonstrations_use_the_calculator_correctly_as_far_as_they_go() -> None:
    for one in demonstrations(0, COUNT):
        messages, calls = messages_of(one), tool_calls_of(one)
        expressions = [json.loads(call["function"]["arguments"])["expression"] for call in calls]
        assert expressions == careful_expressions(messages[1]["content"])[: len(expressions)]
        results = [message for message in messages if message["role"] == "tool"]
        assert [message["content"] for message in results] == [str(calculate(text)) for text in expressions]
        assert [message["tool_call_id"] for message in results] == [call["id"] for call in calls]
        assert {call["function"]["name"] for call in calls} <= {TOOL_NAME}


def test_demonstrations_end_with_the_last_result_if_there_is_one() -> None:
    for one in demonstrations(0, COUNT):
        last = messages_of(one)[-1]
        assert last["role"] == "assistant"
        assert last["content"].isdigit()
        if tool_calls_of(one):
            assert last["content"] == messages_of(one)[-2]["content"]


def test_demonstrations_are_mostly_wrong_but_often_right() -> None:
    right = 0.0
    for one in demonstrations(0, COUNT):
        messages = messages_of(one)
        answer = str(calculate(careful_expressions(messages[1]["content"])[-1]))
        right += grade({"question": messages[1]["content"], "answer": answer}, messages[-1]["content"])
    assert 0.25 < right / COUNT < 0.5


def test_a_grade_is_an_exact_match_apart_from_space_around_it() -> None:
    task = {"question": "What is 37 + 45?", "answer": "82"}
    assert grade(task, " 82\n") == 1.0
    assert [grade(task, output) for output in ("", "8", "820", "82.", "about 82")] == [0.0] * 5


@pytest.mark.parametrize(
    ("expression", "result"), [("37+45", 82), (" 7 - 12 ", -5), ("-5*3", -15), ("2--3", 5)]
)
def test_calculator_works_out_one_operation(expression: str, result: int) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression", ["", "7", "1+2+3", "7/2", "2**9", "__import__('os')", "٣+1", "1" * 10 + "+1"]
)
def test_calculator_refuses_everything_else(expression: str) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        calculate(expression)
