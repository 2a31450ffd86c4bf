"""Equal conversations have equal digests, however they are spelled."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_plugin_gateway.turns import Conversation

some = settings(max_examples=100, deadline=None, derandomize=True)


@some
@given(
    role=st.sampled_from(["system", "user", "assistant", "", None]),
    content=st.text(max_size=20),
    spelled=st.sets(st.sampled_from(["name", "tool_call_id", "tool_calls", "function_call", "refusal"])),
)
def test_a_message_with_nothing_but_text_is_the_same_however_it_is_spelled(
    role: str | None, content: str, spelled: set[str]
) -> None:
    plain = {"role": role, "content": content}
    long = {**plain, **dict.fromkeys(spelled)}
    parts = {"role": role, "content": [{"type": "text", "text": content}]}
    assert digests(plain) == digests(long) == digests(parts)
    assert digests({**plain, "name": "x"}) != digests(plain) != digests({"role": "tool", "content": content})


def digests(message: dict[str, Any]) -> tuple[bytes, ...]:
    return Conversation.of({"messages": [message]}, model="m").digests
