"""Who knows a model's chat template and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from agentlightning.types import Json


@runtime_checkable
class Renderer(Protocol):
    """What renders conversations for a model; an engine in this process that has it also takes ids.

    Such an engine samples after the field `prompt_token_ids` of a chat request, in place of what the messages render
    to, and reads its answer as ever.
    """

    async def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        add_generation_prompt: bool,
    ) -> list[int]:
        """Ids of a conversation by the chat template alone, with the start of the next answer if asked for."""
        ...

    async def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the names of control tokens."""
        ...
