"""What other kinds of training are handed: conversations to imitate, and answers that were preferred."""

from __future__ import annotations

import msgspec

from agentlightning.types._rollout import Json


class ChatExample(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation of one agent, for supervised fine-tuning.

    Attributes:
        id: Transition whose answer ends the conversation.
        rollout_id: Rollout that it was part of.
        group: Task, as in `Group.key`.
        agent: Who answered; empty if nobody said.
        messages: The whole conversation, the last answer included, in the form in which it was captured.
        tools: Tool definitions that the agent had, as captured; None if there were none.
        trained: Places in `messages` of answers that the agent itself was seen to give; the others are context.
        reward: Outcome of the trajectory; None if nobody gave one.
    """

    id: str
    rollout_id: str
    group: str
    agent: str = ""
    messages: tuple[Json, ...]
    tools: Json = None
    trained: tuple[int, ...]
    reward: float | None = None


class PreferencePair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to the same conversation, one of which led to more.

    Attributes:
        group: Task, as in `Group.key`.
        agent: Who answered; empty if nobody said.
        messages: What both answered to.
        tools: Tool definitions that the agent had, as captured; None if there were none.
        chosen: The better answer.
        rejected: The worse answer.
        chosen_id: Transition of the better answer.
        rejected_id: Transition of the worse answer.
        margin: By how much the credit of the better one is greater; above 0.
    """

    group: str
    agent: str = ""
    messages: tuple[Json, ...]
    tools: Json = None
    chosen: Json
    rejected: Json
    chosen_id: str
    rejected_id: str
    margin: float
