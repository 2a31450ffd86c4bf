"""Stage `preferences`: better and worse answers to the same conversation, for preference learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._group import group_key
from agentlightning.pipeline._messages import Exchange, exchange_of
from agentlightning.types import Experience, Json, PreferencePair, Remark, Transition


class PreferencesParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        margin: By how much the credit of the better answer is greater, at least; equal ones are never a pair.
        pairs: `extremes` is the one pair that is furthest apart; `all` pairs each two whose credits are so far apart.
    """

    margin: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    pairs: Literal["extremes", "all"] = "extremes"


class Preferences:
    """Pairs answers that one agent gave to the same messages, with the same tools, within the rollouts of a task.

    What an answer is worth is its credit; without the stage `credit`, the outcome of its trajectory. Answers without
    either are left aside. Two answers that read the same are never a pair.
    """

    name = "preferences"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, PreferencesParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        answers: dict[tuple[str, str, bytes], list[_Answer]] = {}
        for trajectory in experience.trajectories:
            for transition in trajectory.transitions:
                exchange = exchange_of(transition)
                worth = trajectory.outcome if transition.credit is None else transition.credit
                if exchange is not None and worth is not None:
                    asked = msgspec.json.encode([exchange.prompt, exchange.tools], order="sorted")
                    key = group_key(trajectory), transition.agent, asked
                    answers.setdefault(key, []).append(_Answer(transition, exchange, worth))
        pairs: list[PreferencePair] = []
        remarks: list[Remark] = []
        for (group, _, _), found in answers.items():
            made = [_pair(group, better, worse) for better, worse in self._paired(found)]
            pairs += made
            if not made:
                reason = "answered once" if len(found) == 1 else "no two answers are far enough apart"
                remarks.append(Remark(id=found[0].transition.id, reason=reason))
        return replace(experience, preferences=tuple(pairs), remarks=(*experience.remarks, *remarks))

    def _paired(self, found: list[_Answer]) -> list[tuple[_Answer, _Answer]]:
        """Better and worse, the best first; of equally good ones the one that came first."""
        ranked = sorted(found, key=lambda answer: -answer.worth)
        pairs = [
            (better, worse)
            for place, better in enumerate(ranked)
            for worse in ranked[place + 1 :]
            if 0 < better.worth - worse.worth >= self._params.margin
            and better.exchange.answer != worse.exchange.answer
        ]
        if self._params.pairs == "all":
            return pairs
        return sorted(pairs, key=lambda pair: pair[1].worth - pair[0].worth)[:1]


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer to a conversation, and what it is worth."""

    transition: Transition
    exchange: Exchange
    worth: float


def _pair(group: str, better: _Answer, worse: _Answer) -> PreferencePair:
    return PreferencePair(
        group=group,
        agent=better.transition.agent,
        messages=better.exchange.prompt,
        tools=better.exchange.tools,
        chosen=better.exchange.answer,
        rejected=worse.exchange.answer,
        chosen_id=better.transition.id,
        rejected_id=worse.transition.id,
        margin=better.worth - worse.worth,
    )
