"""Parts that run in tasks of their own, one at a time, each until it has to wait for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agentlightning.algorithm import Algorithm, TrainingContext
from agentlightning.compose._context import PartContext
from agentlightning.errors import Interrupted
from agentlightning.types import Json

_Answer = TypeVar("_Answer")


@dataclass(eq=False, kw_only=True)
class Request(Generic[_Answer]):
    """What a part waits for."""

    answer: asyncio.Future[_Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class TurnContext(PartContext):
    """The run as a part sees it that takes turns with others.

    Attributes:
        algorithm: The part.
        index: Its place among the parts.
        asked: What it waits for, in order.
    """

    def __init__(
        self, whole: TrainingContext, *, algorithm: Algorithm, index: int, state: Mapping[str, Json]
    ) -> None:
        super().__init__(whole, state=state)
        self.algorithm = algorithm
        self.index = index
        self.asked: list[Request[object]] = []
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it is done."""
        return self._task is not None and self._task.done()

    async def turn(self) -> None:
        """Lets it go on until it waits for something or has ended. What it raises is raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._fit(), name=f"part-{self.index}-{self.algorithm.name}")
        while not self.asked and not self._task.done():
            self._moved.clear()
            moved = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait({self._task, moved}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()
        if self._task.done():
            self._task.result()

    async def ask(self, request: Request[_Answer]) -> _Answer:
        """Waits for the answer to a request; called by the part."""
        self.asked.append(request)  # type: ignore[arg-type]  # each is answered by who knows its type
        self._moved.set()
        try:
            return await request.answer
        finally:
            self._forget(request)

    def grant(self, request: Request[_Answer], answer: _Answer) -> None:
        """Answers a request; the part goes on in its next `turn`."""
        self._forget(request)
        if not request.answer.done():
            request.answer.set_result(answer)

    def _forget(self, request: Request[_Answer]) -> None:
        self.asked = [one for one in self.asked if one is not request]

    async def _fit(self) -> None:
        with told_by(self.algorithm.name):
            await self.algorithm.fit(self)

    async def close(self) -> None:
        """Gives it up if it has not ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def owned(parts: Sequence[TurnContext]) -> AsyncIterator[None]:
    """However the block ends, none of the parts goes on afterwards; the last one is given up first."""
    try:
        yield
    finally:
        for one in reversed(parts):
            await one.close()


@contextmanager
def told_by(name: str) -> Iterator[None]:
    """What goes wrong in the block says in a note which part it was; a request to stop is nobody's."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        error.add_note(f"raised by {name!r}, a part of the composition")
        raise
