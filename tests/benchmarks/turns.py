"""Rollouts of several turns whose prompt grows, of the standard library alone: opponents import it too."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

FIRST: Final = 200
"""Tokens of the first prompt."""
ANSWER: Final = 64
OBSERVATION: Final = 40
"""Tokens that come after an answer, before the next."""
_VOCABULARY: Final = 32_000


@dataclass(frozen=True)
class Turn:
    """One call of a model.

    Attributes:
        agent: Index of who calls.
        prompt: All that came before, in that agent's conversation.
    """

    agent: int
    prompt: list[int]
    answer: list[int]
    logprobs: list[float]


def rollout(turns: int, *, seed: int, agents: int = 1) -> list[Turn]:
    """Turns that agents take one after the other, each in a conversation of its own."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(_VOCABULARY) for _ in range(count)]

    contexts = [ids(FIRST) for _ in range(agents)]
    made = []
    for index in range(turns):
        agent = index % agents
        answer = ids(ANSWER)
        made.append(Turn(agent, contexts[agent], answer, [-0.5] * ANSWER))
        contexts[agent] = contexts[agent] + answer + ids(OBSERVATION)
    return made


def unique_tokens(turns: int, *, agents: int = 1) -> int:
    """How many there are without what is repeated."""
    conversations = min(agents, turns)
    return conversations * FIRST + turns * ANSWER + (turns - conversations) * OBSERVATION
