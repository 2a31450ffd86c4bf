"""Builds the prompt of a next turn from the ids of the turn before and the rendering of what was added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agentlightning.types import Json, unpack_ints
from lightning_plugin_gateway.turns._label import TurnLabel
from lightning_plugin_gateway.turns._memory import Turn
from lightning_plugin_gateway.turns._renderer import Renderer

_UNREADABLE = "\ufffd"
_CONTEXT = 16
"""Equal ids that are decoded before the first different one, so that both start in the same way."""

_PROBES = ("a", "b")


class Splice(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt to continue a turn.

    Attributes:
        label: `exact`, `spliced`, or why the turn's ids cannot be used: `template` or `retokenisation`.
        prompt: Ids to sample after; empty if they cannot be used.
        rendered: Ids of plain rendering.
    """

    label: TurnLabel
    prompt: tuple[int, ...] = ()
    rendered: tuple[int, ...]


class Splicer:
    """Continues turns of one model."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._turn_end: tuple[int, ...] | None = None

    async def splice(
        self, turn: Turn, *, messages: Sequence[Mapping[str, Json]], tools: Sequence[Mapping[str, Json]]
    ) -> Splice:
        """The prompt that continues a turn.

        What follows the answer is found by rendering the conversation up to the answer and as a whole: the second must
        start with the first, and the first must say what the turn's ids say, white space inside aside.

        Args:
            turn: The turn that the messages begin with.
            messages: The whole conversation.
            tools: Tools of the request.
        """
        turn_end = await self._ending()
        render = self._renderer.render
        whole = await render(messages, tools, add_generation_prompt=True)
        answered = await render(messages[: turn.messages], tools, add_generation_prompt=False)
        sampled = list(unpack_ints(turn.ids))
        ended = _ended(sampled, turn_end)
        if whole[: len(answered)] != answered or not await self._reads_alike(ended, answered):
            same = (await self._renderer.decode(whole)).startswith(await self._renderer.decode(sampled))
            label = TurnLabel.RETOKENISATION if same else TurnLabel.TEMPLATE
            return Splice(label=label, rendered=tuple(whole))
        prompt = ended + whole[len(answered) :]
        label = TurnLabel.EXACT if prompt == whole else TurnLabel.SPLICED
        return Splice(label=label, prompt=tuple(prompt), rendered=tuple(whole))

    async def _ending(self) -> tuple[int, ...]:
        """The ids that the template puts after every answer: what two answers' ends have in common."""
        if self._turn_end is None:
            one, other = [
                await self._renderer.render(
                    [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}],
                    [],
                    add_generation_prompt=False,
                )
                for text in _PROBES
            ]
            count = 0
            while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
                count += 1
            self._turn_end = tuple(one[len(one) - count :])
        return self._turn_end

    async def _reads_alike(self, one: list[int], other: list[int]) -> bool:
        if one == other:
            return True
        start = 0
        while start < min(len(one), len(other)) and one[start] == other[start]:
            start += 1
        start = max(0, start - _CONTEXT)
        said, rendered = [await self._renderer.decode(ids[start:]) for ids in (one, other)]
        # the white space at the end is the template's own: there it must not be missing
        return _readable(said) == _readable(rendered) and _space_after(said) == _space_after(rendered)


def _ended(ids: list[int], turn_end: Sequence[int]) -> list[int]:
    """Ids of a turn with as much of the turn's end as was not sampled: all of it if the answer was cut off."""
    longest = min(len(ids), len(turn_end))
    sampled = next((count for count in range(longest, 0, -1) if _ends(ids, turn_end[:count])), 0)
    return [*ids, *turn_end[sampled:]]


def _ends(ids: Sequence[int], end: Sequence[int]) -> bool:
    return list(ids[len(ids) - len(end) :]) == list(end)


def _readable(text: str) -> str:
    """Text without white space, which templates trim and JSON is free in, and without what is no character."""
    return "".join(text.replace(_UNREADABLE, "").split())


def _space_after(text: str) -> str:
    return text[len(text.rstrip()) :]
