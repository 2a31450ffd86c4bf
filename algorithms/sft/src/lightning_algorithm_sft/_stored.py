"""Examples from the model calls that a store has, whoever traced them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from agentlightning import semconv
from agentlightning.algorithm import TrainingContext
from agentlightning.engine import Learner, Tokenized
from agentlightning.errors import ConfigError
from agentlightning.pipeline.dialects import chat_messages, chat_tools
from agentlightning.store import RolloutQuery, Store
from agentlightning.types import Experience, Json, Mode, Rollout, RolloutStatus, Span, SpanStatus
from lightning_algorithm_sft._config import Stored
from lightning_algorithm_sft._demonstrations import Demonstration

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What was found.

    Attributes:
        tokenized: One conversation per answer, in order of creation of the rollouts; only that answer is the
            assistant's, so that each answer is trained once.
        left_out: How many calls cannot be learned from, by reason.
    """

    tokenized: list[Tokenized]
    left_out: Counter[str]


async def stored_examples(context: TrainingContext, learner: Learner, chosen: Stored) -> Examples:
    """Renders every chosen call of finished training rollouts with the model's chat template.

    Raises:
        ConfigError: There is not one of them.
    """
    found, left_out = list[Tokenized](), Counter[str]()
    async for rollouts in _pages(context.store, chosen):
        experience = await context.experience(rollouts)
        for example in _examples(experience, chosen, left_out):
            try:
                whole = await learner.tokenize(example.messages, tools=example.tools)
            except ConfigError as error:  # an image, say, which this model cannot be shown
                left_out[str(error)[:200]] += 1
                continue
            if any((last := _last_answer(whole)).assistant_mask[1:]):
                found.append(last)
            else:
                left_out["the chat template marks no token as the assistant's"] += 1
    if not found:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common(3))
        raise ConfigError(
            f"the store has no answer to learn from{': ' + reasons if reasons else ''}; "
            "import traces (agl import FILE), run the agent, or choose more (stored.min_reward, stored.run_id)"
        )
    return Examples(tokenized=found, left_out=left_out)


async def _pages(store: Store, chosen: Stored) -> AsyncIterator[Sequence[Rollout]]:
    query = RolloutQuery(run_id=chosen.run_id or None, mode=Mode.TRAIN, statuses=(RolloutStatus.SUCCEEDED,))
    cursor: str | None = None
    while True:
        page = await store.rollouts.list(query, limit=_PAGE, cursor=cursor)
        if page.items:
            yield page.items
        cursor = page.cursor
        if cursor is None:
            return


def _examples(experience: Experience, chosen: Stored, left_out: Counter[str]) -> Iterator[Demonstration]:
    outcomes = {one.rollout.id: one.outcome for one in experience.trajectories}
    for episode in experience.episodes:
        outcome = outcomes.get(episode.rollout.id)
        good = chosen.min_reward is None or (outcome is not None and outcome >= chosen.min_reward)
        for span in episode.spans:
            if span.operation != semconv.OPERATION_CHAT:
                continue
            reason = _unfit(span) or experience.environment.get(f"{span.attempt_id}/{span.span_id}")
            if reason or not good:
                left_out[reason or "the reward is missing or too low"] += 1
            else:
                yield from _conversations(span, left_out)


def _unfit(span: Span) -> str:
    """Why nothing can be learned from a call; empty if something can."""
    if span.status is SpanStatus.ERROR:
        return "the call failed"
    if span.attributes.get(semconv.CANCELLED):
        return "the client left before the end of the answer"
    if not span.attributes.get(semconv.INPUT_MESSAGES):
        return "the trace has no messages of the call"
    return ""


def _conversations(span: Span, left_out: Counter[str]) -> Iterator[Demonstration]:
    """One for each answer that was sampled."""
    attributes = span.attributes
    asked = [
        *_system(attributes.get(semconv.SYSTEM_INSTRUCTIONS)),
        *chat_messages(attributes.get(semconv.INPUT_MESSAGES)),
    ]
    tools = chat_tools(attributes.get(semconv.TOOL_DEFINITIONS))
    answers = chat_messages(attributes.get(semconv.OUTPUT_MESSAGES))
    said = [one for one in answers if one.get("content") or one.get("tool_calls")]
    left_out["the trace has no answer"] += len(answers) - len(said) if answers else 1
    for answer in said:
        yield Demonstration(messages=[*asked, {**answer, "role": "assistant"}], tools=tools)


def _system(instructions: Json) -> list[dict[str, Json]]:
    """Instructions that are told apart from the messages, as one of them."""
    if isinstance(instructions, str):
        return [{"role": "system", "content": instructions}] if instructions else []
    return chat_messages([{"role": "system", "parts": instructions}]) if instructions else []


def _last_answer(whole: Tokenized) -> Tokenized:
    """The conversation with the answers before the last one as context."""
    mask = whole.assistant_mask
    stop = next((place for place in range(len(mask), 0, -1) if mask[place - 1]), 0)
    start = next((place for place in range(stop, 0, -1) if not mask[place - 1]), 0)
    kept = [start <= place < stop for place in range(len(mask))]
    return Tokenized(token_ids=whole.token_ids, assistant_mask=kept)
