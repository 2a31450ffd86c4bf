"""What is remembered, and what is forgotten."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.types import pack_ints
from lightning_plugin_gateway.turns import Conversation, TurnMemory

some = settings(max_examples=60, deadline=None, derandomize=True)
Message = dict[str, Any]


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def asked(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation.of(
        {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]}
    )


def remember(memory: TurnMemory, *texts: str, size: int = 10, follow: bool = False) -> None:
    conversation = asked(*texts[:-1])
    follows = memory.match(conversation) if follow else None
    prompt = (follows.ids if follows else b"") + pack_ints([1] * size)
    memory.remember(conversation, said(texts[-1]), prompt=prompt, response=pack_ints([2]), follows=follows)


@some
@given(
    calls=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4000), st.booleans()), max_size=60),
    max_turns=st.integers(1, 12),
    max_bytes=st.integers(1_000, 20_000),
)
def test_memory_never_grows_beyond_its_bounds(
    calls: list[tuple[int, int, bool]], max_turns: int, max_bytes: int
) -> None:
    memory = TurnMemory(max_turns=max_turns, max_bytes=max_bytes)
    for number, size, follow in calls:
        remember(memory, f"q{number}", "a", size=size, follow=follow)
        assert len(memory) <= max_turns
        assert memory.size <= max_bytes
        assert bool(memory.size) == bool(len(memory))
        kept = memory.match(asked(f"q{number}", "a"))
        fits = 4 * (size + 1) + 600 <= max_bytes
        assert kept is not None or not fits


def test_turns_that_another_continues_are_forgotten_first() -> None:
    memory = TurnMemory(max_turns=3)
    remember(memory, "other", "a")
    remember(memory, "q", "a")
    remember(memory, "q", "a", "q", "b", follow=True)
    remember(memory, "q", "a", "q", "b", "q", "c", follow=True)
    assert memory.match(asked("other", "a"))
    assert not memory.match(asked("q", "a"))
    longest = memory.match(asked("q", "a", "q", "b", "q", "c", "q"))
    assert longest
    assert longest.messages == 6


def test_what_was_forgotten_is_not_held_against_the_client() -> None:
    memory = TurnMemory(max_turns=1)
    remember(memory, "q", "a")
    edited = asked("q", "b", "q")
    assert memory.is_rewritten(edited, after=0)
    remember(memory, "other", "x")
    assert not memory.is_rewritten(edited, after=0)


@some
@given(
    one=st.lists(st.integers(0, 3), max_size=40),
    other=st.lists(st.integers(0, 3), max_size=40),
)
def test_common_ids_are_counted(one: list[int], other: list[int]) -> None:
    memory = TurnMemory()
    memory.remember(asked("q"), said("a"), prompt=pack_ints(one), response=b"")
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    assert memory.common(pack_ints(other)) == same


def test_a_turn_that_is_too_large_drives_nothing_out() -> None:
    memory = TurnMemory(max_bytes=2_000)
    remember(memory, "q", "a")
    remember(memory, "large", "a", size=1_000)
    assert memory.match(asked("q", "a"))
    assert not memory.match(asked("large", "a"))
