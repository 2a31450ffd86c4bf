"""What is remembered of an attempt's turns: the exact ids of each conversation that was answered."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping

import msgspec

from agentlightning.types import Json
from lightning_plugin_gateway.turns._conversation import Conversation

_TURN_BYTES = 512
"""What a turn takes beside its ids, about."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """An answered call.

    Attributes:
        digest: Of its messages and its answer.
        asked: Of its messages.
        answer: Of its answer alone.
        messages: How many messages it has, the answer included.
        ids: Ids of the prompt and the answer, packed little-endian int32.
        prompt_bytes: How many bytes of them are the prompt.
    """

    digest: bytes
    asked: bytes
    answer: bytes
    messages: int
    ids: bytes
    prompt_bytes: int

    @property
    def size(self) -> int:
        """Memory that it takes, in bytes."""
        return len(self.ids) + _TURN_BYTES


class TurnMemory:
    """Turns of one attempt. The oldest are forgotten first, and before them those that another one continues.

    Attributes:
        size: Memory that they take, in bytes.
    """

    def __init__(self, *, max_turns: int = 256, max_bytes: int = 2**20) -> None:
        """Makes an empty memory.

        Args:
            max_turns: Most turns that are kept.
            max_bytes: Most bytes that they take together; a turn that is larger by itself is not kept.
        """
        self.size = 0
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._turns: OrderedDict[bytes, Turn] = OrderedDict()
        self._continued: OrderedDict[bytes, None] = OrderedDict()
        self._asked: Counter[bytes] = Counter()
        self._answers: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._turns)

    def match(self, conversation: Conversation) -> Turn | None:
        """The longest turn that the conversation begins with."""
        for digest, answer in zip(
            reversed(conversation.digests), reversed(conversation.answers), strict=True
        ):
            if answer and (turn := self._turns.get(digest)):
                return turn
        return None

    def is_rewritten(self, conversation: Conversation, *, after: int) -> bool:
        """Whether a message from place `after` on tells an answer that was given otherwise, or elsewhere.

        Either something else was answered at this place, or this was the answer to other messages.
        """
        return any(
            answer and (answer in self._answers or (place and conversation.digests[place - 1] in self._asked))
            for place, answer in enumerate(conversation.answers)
            if place >= after
        )

    def remember(
        self,
        conversation: Conversation,
        message: Mapping[str, Json],
        *,
        prompt: bytes,
        response: bytes,
        follows: Turn | None = None,
    ) -> None:
        """Keeps a turn.

        Args:
            conversation: What was asked.
            message: What was answered, as the client was sent it.
            prompt: Ids of the prompt, packed.
            response: Ids of the answer, packed.
            follows: The turn that it was matched with.
        """
        digest, answer = conversation.answered(message)
        turn = Turn(
            digest=digest,
            asked=conversation.digests[-1],
            answer=answer,
            messages=len(conversation.digests) + 1,
            ids=prompt + response,
            prompt_bytes=len(prompt),
        )
        if turn.size > self._max_bytes:
            return
        self._forget(digest)
        self._turns[digest] = turn
        self._asked[turn.asked] += 1
        self._answers[answer] += 1
        self.size += turn.size
        if follows and follows.digest in self._turns and prompt.startswith(follows.ids):
            self._continued[follows.digest] = None
        while len(self._turns) > self._max_turns or self.size > self._max_bytes:
            self._forget(next(iter(self._continued or self._turns)))

    def common(self, prompt: bytes) -> int:
        """The most leading ids that a packed prompt has in common with any turn."""
        return max((common_ids(turn.ids, prompt) for turn in self._turns.values()), default=0)

    def _forget(self, digest: bytes) -> None:
        turn = self._turns.pop(digest, None)
        self._continued.pop(digest, None)
        if turn is None:
            return
        self.size -= turn.size
        for counter, one in ((self._asked, turn.asked), (self._answers, turn.answer)):
            counter[one] -= 1
            if not counter[one]:
                del counter[one]


def common_ids(one: bytes, other: bytes) -> int:
    """How many leading ids two packed sequences have in common; each byte is compared about twice, in C."""
    low, high = 0, min(len(one), len(other)) // 4
    while low < high:
        middle = (low + high + 1) // 2
        if one[4 * low : 4 * middle] == other[4 * low : 4 * middle]:
            low = middle
        else:
            high = middle - 1
    return low
