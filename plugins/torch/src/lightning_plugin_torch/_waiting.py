"""Answers that wait for a place; requests take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from lightning_plugin_torch._answer import Answer


class Waiting:
    """A queue in which each request gets one place a round, so that one with many answers delays the others little."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, deque[Answer]] = OrderedDict()

    def __len__(self) -> int:
        """Answers that wait, those included that were cancelled since they came."""
        return sum(map(len, self._requests.values()))

    def __iter__(self) -> Iterator[Answer]:
        """All of them."""
        return (answer for answers in self._requests.values() for answer in answers)

    def add(self, answer: Answer) -> None:
        """Puts an answer at the end of its request's line."""
        self._requests.setdefault(answer.request, deque()).append(answer)

    def take(self) -> Answer | None:
        """The next answer that is still wanted; its request goes to the end."""
        while self._requests:
            request, answers = self._requests.popitem(last=False)
            answer = answers.popleft()
            if answers:
                self._requests[request] = answers
            if not answer.done.cancelled():
                return answer
        return None

    def clear(self) -> None:
        """Forgets all of them."""
        self._requests.clear()
