"""Our token forest, of transitions and of spans; and what a check of prefixes costs at least. Runs as a `Worker`."""

from __future__ import annotations

from array import array

from answering import Stopwatch, serve
from turns import Turn, rollout, unique_tokens

from agentlightning import semconv
from agentlightning.pipeline import merge_calls
from agentlightning.pipeline._transitions import Transitions
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, TokenRecord, Transition


def transitions(*, turns: int, rollouts: int, agents: int) -> dict[str, float]:
    """Merges the calls of rollouts that are there as transitions."""
    groups = [
        (
            f"rollout-{seed}",
            [
                Transition(
                    id=f"{seed}/{index}",
                    rollout_id=f"rollout-{seed}",
                    index=index,
                    agent=str(turn.agent),
                    tokens=_packed(turn),
                )
                for index, turn in enumerate(rollout(turns, seed=seed, agents=agents))
            ],
        )
        for seed in range(rollouts)
    ]
    watch = Stopwatch()
    forest = merge_calls(groups)
    taken = watch.per(rollouts)
    if forest.size != rollouts * unique_tokens(turns, agents=agents) or forest.mismatches:
        raise AssertionError(f"{forest.size} tokens are left, and {forest.mismatches}")
    return taken


def spans(*, turns: int, rollouts: int, agents: int) -> dict[str, float]:
    """Likewise, of rollouts that are there as they were captured."""
    episodes = []
    for seed in range(rollouts):
        builder = EpisodeBuilder(rollout_id=f"rollout-{seed}")
        for turn in rollout(turns, seed=seed, agents=agents):
            builder.span(
                semconv.OPERATION_CHAT,
                agent=str(turn.agent),
                attributes={
                    semconv.INPUT_MESSAGES: [{"role": "user", "content": "q" * 300}],
                    semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": "a" * 250}],
                },
                tokens=(_packed(turn),),
            )
        episodes.append(builder.build())
    stage = Transitions({})
    watch = Stopwatch()
    found = stage(Experience(episodes=tuple(episodes))).trajectories
    forest = merge_calls((one.rollout.id, one.transitions) for one in found)
    taken = watch.per(rollouts)
    if forest.size != rollouts * unique_tokens(turns, agents=agents):
        raise AssertionError(f"{forest.size} tokens are left")
    return taken


def floor(*, turns: int, rollouts: int, agents: int) -> dict[str, float]:
    """Compares lists and copies the longest: a single chain, without branches."""
    if agents != 1:
        raise ValueError("lists know no branches")
    made = [rollout(turns, seed=seed) for seed in range(rollouts)]
    watch = Stopwatch()
    for calls in made:
        whole = calls[-1].prompt + calls[-1].answer
        mask = bytearray(len(whole))
        for turn in calls:
            start = len(turn.prompt)
            stop = start + len(turn.answer)
            if whole[:start] != turn.prompt or whole[start:stop] != turn.answer:
                raise AssertionError("the prompt does not go on where the answer ended")
            mask[start:stop] = b"\1" * len(turn.answer)
        array("i", whole)
    return watch.per(rollouts)


def _packed(turn: Turn) -> TokenRecord:
    return TokenRecord.pack(turn.prompt, turn.answer, turn.logprobs, version=1)


if __name__ == "__main__":
    serve({"transitions": transitions, "spans": spans, "floor": floor})
