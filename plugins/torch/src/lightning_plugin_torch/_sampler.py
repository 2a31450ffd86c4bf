"""Continuous batching: prefills prompts, decodes pages of sequences, lets answers in and out at any step."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import torch

from agentlightning.errors import EngineError
from lightning_plugin_torch._cache import Page, Recorder
from lightning_plugin_torch._choose import choose
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._sequence import Sequence

SMALLEST_PAGE = 64
PREFILLS_KEPT = 64
PREFILLS_A_STEP = 32


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
    """Samples any number of sequences at a time; every method runs on the worker's thread.

    One answer's numbers are fixed by weights, prompt and seed: a prompt is prefilled alone in its exact shape, and
    steps have constant shapes that depend on the sequence's own length only.
    """

    def __init__(self, model: LoadedModel, *, batch: int, max_active: int) -> None:
        self._model = model
        self._rows = batch
        self._max_active = max_active
        self._waiting: deque[Sequence] = deque()
        self._pages: list[Page] = []
        self._prefills: OrderedDict[tuple[int, ...], _Prefill] = OrderedDict()
        self._active = 0
        self.version = 0

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self._waiting.append(sequence)

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
        return bool(self._active or self._waiting)

    def cancel_all(self) -> None:
        """Cancels every answer under way."""
        for sequence in self._everyone():
            sequence.done.cancel()
        self._reset()

    def _admit(self) -> None:
        for _ in range(min(len(self._waiting), self._max_active - self._active, PREFILLS_A_STEP)):
            sequence = self._waiting[0]
            if not sequence.done.cancelled():
                self._begin(sequence)
            self._waiting.popleft()

    def _begin(self, sequence: Sequence) -> None:
        prefill = self._prefill(tuple(sequence.prompt))
        token = choose(prefill.logits_1_V, [sequence])[0]
        assert token is not None
        sequence.accept(token, self.version)
        if sequence.finished:
            sequence.settle()
        else:
            self._place(sequence, prefill.keys, prefill.values)
            self._active += 1

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

    def _place(self, sequence: Sequence, keys: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        capacity = SMALLEST_PAGE
        while capacity <= sequence.position:
            capacity *= 2
        page = next((p for p in self._pages if p.capacity == capacity and p.free >= 0), None)
        if page is None:
            page = Page(rows=self._rows, capacity=capacity)
            self._pages.append(page)
        page.put(page.free, sequence, keys, values)

    def _decode(self, page: Page) -> None:
        self._release(page)
        if page.empty:
            self._pages.remove(page)
            return
        for row, token in enumerate(choose(self._model.decode(page), page.sequences)):
            sequence = page.sequences[row]
            if sequence is None or token is None:
                continue
            sequence.accept(token, self.version)
            if sequence.finished:
                page.sequences[row] = None
                self._active -= 1
                sequence.settle()

    def _release(self, page: Page) -> None:
        """Frees the rows of cancelled answers, and moves those that have outgrown the page."""
        for row, sequence in enumerate(page.sequences):
            if sequence is None:
                continue
            if sequence.done.cancelled():
                page.sequences[row] = None
                self._active -= 1
            elif sequence.position >= page.capacity:
                self._place(sequence, *page.take(row))

    def _everyone(self) -> list[Sequence]:
        return [*self._waiting, *(s for page in self._pages for s in page.sequences if s is not None)]

    def _fail(self, error: Exception) -> None:
        for sequence in self._everyone():
            failure = EngineError(f"sampling failed: {error!r}; every answer under way was ended")
            failure.__cause__ = error
            sequence.fail(failure)
        self._reset()

    def _reset(self) -> None:
        self._waiting.clear()
        self._pages.clear()
        self._active = 0
