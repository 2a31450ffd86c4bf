"""Continuous batching: prefills prompts, decodes pages of answers, lets answers in and out at any step."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agentlightning.errors import EngineError
from lightning_plugin_torch._answer import Answer
from lightning_plugin_torch._cache import Page, Recorder
from lightning_plugin_torch._choose import choose
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._sizes import round_up

SMALLEST_PAGE = 64
PREFILLS_KEPT = 64
ADMITTED_A_STEP = 64


@dataclass(frozen=True, slots=True)
class _Prefill:
    """What a prompt leaves behind.

    Attributes:
        logits_1_V: Logits after its last token.
        keys: Per layer `[H, T, D]`.
        values: Per layer `[H, T, D]`.
    """

    logits_1_V: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class Sampler:
    """Samples any number of answers at a time; every method runs on the worker's thread.

    An answer's numbers are fixed by weights, prompt and seed: a prompt is prefilled alone in its exact shape, the
    capacity of its page follows from its own length, and the numbers of rows in a step are such that a row comes out
    the same in each (`_sizes.safe_sizes`).

    Attributes:
        version: Policy version of the weights: optimiser steps so far.
    """

    def __init__(self, model: LoadedModel, *, sizes: Sequence[int], max_active: int) -> None:
        self._model = model
        self._sizes = sizes
        self._max_active = max_active
        self._waiting: deque[Answer] = deque()
        self._pages: list[Page] = []
        self._prefills: OrderedDict[tuple[int, ...], _Prefill] = OrderedDict()
        self.version = 0

    def add(self, answer: Answer) -> None:
        """Queues an answer."""
        self._waiting.append(answer)

    def weights_changed(self) -> None:
        """Forgets what was computed with other weights, save that of answers under way."""
        self._prefills.clear()

    def step(self) -> bool:
        """Admits what waits and samples one token for everyone; returns whether anyone is left."""
        try:
            with torch.inference_mode():
                self._admit()
                for page in list(self._pages):
                    self._decode(page)
        except Exception as error:  # noqa: BLE001 - whatever torch raises ends the answers, never the worker
            self._fail(error)
        return bool(self._waiting or self._active)

    def stop(self) -> None:
        """Cancels every answer under way."""
        for answer in self._everyone():
            answer.done.cancel()
        self._reset()

    @property
    def _active(self) -> int:
        return sum(len(page.answers) for page in self._pages)

    def _admit(self) -> None:
        for _ in range(min(len(self._waiting), self._max_active - self._active, ADMITTED_A_STEP)):
            answer = self._waiting[0]
            if not answer.done.cancelled():
                self._begin(answer)
            self._waiting.popleft()

    def _begin(self, answer: Answer) -> None:
        prefill = self._prefill(tuple(answer.prompt))
        answer.accept(choose(prefill.logits_1_V, [answer])[0], self.version)
        if answer.finished:
            answer.settle()
        else:
            self._place(answer, keys=prefill.keys, values=prefill.values)

    def _prefill(self, prompt: tuple[int, ...]) -> _Prefill:
        found = self._prefills.get(prompt)
        if found is None:
            recorder = Recorder()
            logits_1_V = self._model.prefill(prompt, recorder)
            found = _Prefill(logits_1_V, [k[0] for k in recorder.keys], [v[0] for v in recorder.values])
            self._prefills[prompt] = found
            if len(self._prefills) > PREFILLS_KEPT:
                self._prefills.popitem(last=False)
        self._prefills.move_to_end(prompt)
        return found

    def _place(self, answer: Answer, *, keys: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        """Gives it a row in the smallest page that its next token fits into."""
        capacity = round_up(answer.position + 1, least=SMALLEST_PAGE)
        page = next((page for page in self._pages if page.capacity == capacity and not page.full), None)
        if page is None:
            page = Page(sizes=self._sizes, capacity=capacity)
            self._pages.append(page)
        page.put(answer, keys=keys, values=values)

    def _decode(self, page: Page) -> None:
        for answer in list(page.answers):
            if answer.done.cancelled():
                page.drop(answer)
            elif answer.position >= page.capacity:
                keys, values = page.read(answer)
                self._place(answer, keys=keys, values=values)
                page.drop(answer)
        if not page.answers:
            self._discard(page)
            return
        answers = list(page.answers)
        for answer, token in zip(answers, choose(self._model.decode(page), answers), strict=True):
            answer.accept(token, self.version)
            if answer.finished:
                page.drop(answer)
                answer.settle()

    def _discard(self, page: Page) -> None:
        """Keeps one empty page of each capacity, as the next answers will need it."""
        if sum(other.capacity == page.capacity for other in self._pages) > 1:
            self._pages.remove(page)

    def _everyone(self) -> list[Answer]:
        return [*self._waiting, *(answer for page in self._pages for answer in page.answers)]

    def _fail(self, error: Exception) -> None:
        for answer in self._everyone():
            failure = EngineError(f"sampling failed: {error!r}; every answer under way was ended")
            failure.__cause__ = error
            answer.fail(failure)
        self._reset()

    def _reset(self) -> None:
        self._waiting.clear()
        self._pages.clear()
