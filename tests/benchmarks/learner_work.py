"""What the row `learner` trains on: token ids by call, of the standard library alone, for all contenders alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

VOCABULARY: Final = 512
MODEL: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 688,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
"""A Llama of 3.4 million parameters."""


@dataclass(frozen=True)
class Sample:
    """One call of a model.

    Attributes:
        group: Calls of one group share a tree.
        rollout: Calls of one rollout may continue each other.
        prompt: All that came before.
        answer: What is trained.
    """

    group: int
    rollout: int
    prompt: list[int]
    answer: list[int]
    advantage: float


def samples(work: str) -> list[Sample]:
    """The calls of a piece of work, by its name in `WORK`."""
    return WORK[work](random.Random(work))


def equal_shapes(draw: random.Random) -> list[Sample]:
    """32 rows of 80 + 64 tokens with nothing in common."""
    return [Sample(row, row, _ids(draw, 80), _ids(draw, 64), draw.gauss(0, 1)) for row in range(32)]


def shared_prompt(draw: random.Random) -> list[Sample]:
    """Four groups of eight answers of 48 tokens to a prompt four times as long."""
    made = []
    for group in range(4):
        prompt = _ids(draw, 192)
        made += [
            Sample(group, 8 * group + answer, prompt, _ids(draw, 48), draw.gauss(0, 1)) for answer in range(8)
        ]
    return made


def growing(draw: random.Random) -> list[Sample]:
    """Two rollouts of ten turns, each prompt that of the turn before with its answer and an observation."""
    made = []
    for rollout in range(2):
        context, advantage = _ids(draw, 60), draw.gauss(0, 1)
        for _ in range(10):
            answer = _ids(draw, 32)
            made.append(Sample(rollout, rollout, context, answer, advantage))
            context = context + answer + _ids(draw, 20)
    return made


def branching(draw: random.Random) -> list[Sample]:
    """Two groups of four rollouts of one task. Each hands parts of it to two sub-agents after two turns, and goes on.

    Sub-agents see the conversation so far and an order of their own.
    """
    made = []
    for group in range(2):
        task = _ids(draw, 160)
        for rollout in range(4 * group, 4 * group + 4):
            context, advantage = task, draw.gauss(0, 1)
            for turn in range(4):
                answer = _ids(draw, 32)
                made.append(Sample(group, rollout, context, answer, advantage))
                context = context + answer + _ids(draw, 20)
                if turn == 1:
                    for _ in range(2):
                        order = context + _ids(draw, 16)
                        made.append(Sample(group, rollout, order, _ids(draw, 32), advantage))
    return made


def chains(calls: list[Sample]) -> list[list[Sample]]:
    """Calls merged as far as each is the beginning of the next: what chain merging computes as one row."""
    open_chains: list[list[Sample]] = []
    for call in calls:
        for chain in open_chains:
            whole = chain[-1].prompt + chain[-1].answer
            if call.rollout == chain[-1].rollout and call.prompt[: len(whole)] == whole:
                chain.append(call)
                break
        else:
            open_chains.append([call])
    return open_chains


def _ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(2, VOCABULARY) for _ in range(count)]


WORK: Final = {
    "equal_shapes": equal_shapes,
    "shared_prompt": shared_prompt,
    "growing": growing,
    "branching": branching,
}
