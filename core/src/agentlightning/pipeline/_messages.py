"""What an agent read and said, out of a transition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentlightning.types import Json, Transition


@dataclass(frozen=True, slots=True)
class Exchange:
    """One LLM call as messages.

    Attributes:
        prompt: What the model was given, as captured.
        answer: What it answered.
        tools: Tool definitions; None if there were none.
    """

    prompt: tuple[Json, ...]
    answer: Json
    tools: Json

    @property
    def messages(self) -> tuple[Json, ...]:
        """The conversation with its answer."""
        return *self.prompt, self.answer


def exchange_of(transition: Transition) -> Exchange | None:
    """Messages of a transition; None if it is no LLM call, or its messages were not captured."""
    state = transition.state
    if not isinstance(state, Mapping) or transition.action is None:
        return None
    messages = state.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        return None
    return Exchange(tuple(messages), transition.action, state.get("tools"))
