"""Stage `chat`: conversations to imitate, for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._group import group_key
from agentlightning.pipeline._messages import Exchange, exchange_of
from agentlightning.types import ChatExample, Drop, Experience, Json, Trajectory, Transition


class ChatParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage.

    Attributes:
        least: Least outcome of a trajectory whose conversations are taken; None takes all.
        unique: Conversations that read the same as an earlier one of their task are left out.
    """

    least: float | None = None
    unique: bool = True


class Chat:
    """Makes one example of each conversation: calls that go on where an earlier one of their agent ended join it.

    Trajectories stay as they are; what no example was made of is dropped from the examples alone, with the reason.
    """

    name = "chat"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, ChatParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        drops: list[Drop] = []
        chats: list[ChatExample] = []
        seen: set[tuple[str, bytes]] = set()
        for trajectory in experience.trajectories:
            if self._params.least is not None and not _at_least(trajectory.outcome, self._params.least):
                reason = f"outcome below {self._params.least:g}"
                drops.append(Drop(id=trajectory.attempt.id, reason=reason))
                continue
            for example in _examples(trajectory, drops):
                said = example.group, msgspec.json.encode([example.messages, example.tools], order="sorted")
                if self._params.unique and said in seen:
                    drops.append(Drop(id=example.id, reason="said before"))
                    continue
                seen.add(said)
                chats.append(example)
        return replace(experience, chats=tuple(chats), drops=(*experience.drops, *drops))


@dataclass
class _Talk:
    """A conversation that may go on."""

    transition: Transition
    exchange: Exchange
    trained: tuple[int, ...]

    def goes_on_in(self, transition: Transition, exchange: Exchange) -> bool:
        """Whether a later call repeats all of it, answer included."""
        so_far = self.exchange.messages
        return (
            self.transition.agent == transition.agent
            and self.exchange.tools == exchange.tools
            and exchange.prompt[: len(so_far)] == so_far
        )


def _examples(trajectory: Trajectory, drops: list[Drop]) -> Iterator[ChatExample]:
    talks: list[_Talk] = []
    for transition in trajectory.transitions:
        exchange = exchange_of(transition)
        if exchange is None:
            drops.append(Drop(id=transition.id, reason="no messages"))
            continue
        earlier = next((one for one in reversed(talks) if one.goes_on_in(transition, exchange)), None)
        answer = len(exchange.prompt)
        if earlier is None:
            talks.append(_Talk(transition, exchange, (answer,)))
        else:
            earlier.transition, earlier.exchange = transition, exchange
            earlier.trained = (*earlier.trained, answer)
    for talk in talks:
        yield ChatExample(
            id=talk.transition.id,
            rollout_id=talk.transition.rollout_id,
            group=group_key(trajectory),
            agent=talk.transition.agent,
            messages=talk.exchange.messages,
            tools=talk.exchange.tools,
            trained=talk.trained,
            reward=trajectory.outcome,
        )


def _at_least(outcome: float | None, least: float) -> bool:
    return outcome is not None and outcome >= least
