"""Continuous batching: takes prompts on, decodes pages of answers, lets answers in and out at any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from agentlightning.errors import EngineError
from lightning_plugin_torch._answer import Answer
from lightning_plugin_torch._blocks import Block, PrefixCache
from lightning_plugin_torch._cache import Page
from lightning_plugin_torch._choose import choose
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._prefill import Prefiller, Prompt
from lightning_plugin_torch._sizes import Grain, grain_of, round_up
from lightning_plugin_torch._waiting import Waiting

SMALLEST_PAGE = 128
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerCounts:
    """What the sampler did since it started, and what it holds now.

    Attributes:
        active: Answers under way.
        waiting: Answers that wait for a place.
        sampled_tokens: Tokens of answers.
        computed_prompt_tokens: Prompt tokens that went through the model.
        reused_prompt_tokens: Prompt tokens whose keys and values another prompt had computed.
        cached_blocks: Blocks of prompts that are kept.
        cached_bytes: Their memory.
        evicted_blocks: Blocks dropped to make room.
    """

    active: int
    waiting: int
    sampled_tokens: int
    computed_prompt_tokens: int
    reused_prompt_tokens: int
    cached_blocks: int
    cached_bytes: int
    evicted_blocks: int


class Sampler:
    """Samples any number of answers at a time; every method runs on the worker's thread.

    An answer's numbers are fixed by weights, prompt and seed: prompts are computed in blocks whose shapes follow from
    their places (`_prefill`), the capacity of an answer's page follows from its own length, and the numbers of rows in
    a step are such that a row comes out the same in each (`_sizes`).

    Attributes:
        version: Policy version of the weights: optimiser steps so far.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        sizes: Sequence[int],
        max_active: int,
        grain: Grain | None = None,
        cache_bytes: int = 256 * MIB,
        recompute: bool = False,
    ) -> None:
        self._forward = Forward(model)
        self._sizes = sizes
        self._max_active = max_active
        self._grain = grain or grain_of(model)
        self._recompute = recompute
        self._waiting = Waiting()
        self._prompts: dict[tuple[int, ...], Prompt] = {}
        self._pages: list[Page] = []
        self._cache = PrefixCache(limit_bytes=cache_bytes)
        self._prefiller = Prefiller(self._forward, self._cache, grain=self._grain)
        self._sampled = 0
        self.version = 0

    def counts(self) -> SamplerCounts:
        """How it fares."""
        return SamplerCounts(
            active=self._active,
            waiting=len(self._waiting),
            sampled_tokens=self._sampled,
            computed_prompt_tokens=self._prefiller.counts.computed_tokens,
            reused_prompt_tokens=self._prefiller.counts.reused_tokens,
            cached_blocks=len(self._cache),
            cached_bytes=self._cache.size_bytes,
            evicted_blocks=self._cache.evicted,
        )

    def add(self, answer: Answer) -> None:
        """Queues an answer."""
        self._waiting.add(answer)

    def weights_changed(self) -> None:
        """Forgets what was computed with other weights; of answers under way only if they are to be computed anew."""
        self._cache.clear()
        for prompt in self._prompts.values():
            prompt.restart()
        if self._recompute:
            for answer in list(self._decoding()):
                self._want(answer)
            self._pages.clear()

    def step(self) -> bool:
        """Admits what waits, takes prompts on, and samples one token for everyone; returns whether anyone is left."""
        try:
            with torch.inference_mode():
                self._admit()
                self._take_on()
                for page in list(self._pages):
                    self._decode(page)
        except Exception as error:  # noqa: BLE001 - whatever torch raises ends the answers, never the worker
            self._fail(error)
        return bool(self._active or len(self._waiting))

    def stop(self) -> None:
        """Cancels every answer under way."""
        for answer in self._everyone():
            answer.done.cancel()
        self._reset()

    @property
    def _active(self) -> int:
        decoding = sum(len(page.answers) for page in self._pages)
        return decoding + sum(len(prompt.answers) for prompt in self._prompts.values())

    def _admit(self) -> None:
        for _ in range(self._max_active - self._active):
            answer = self._waiting.take()
            if answer is None:
                return
            self._want(answer)

    def _want(self, answer: Answer) -> None:
        """Puts an answer to those that wait for the same prompt."""
        ids = answer.ids
        self._prompts.setdefault(ids, Prompt(ids)).answers.append(answer)

    def _take_on(self) -> None:
        """Takes prompts through the model as far as one step goes; the first tokens of answers follow."""
        for ids, prompt in list(self._prompts.items()):
            prompt.answers = [answer for answer in prompt.answers if not answer.done.cancelled()]
            if not prompt.answers:
                del self._prompts[ids]
        self._prefiller.advance(list(self._prompts.values()), tokens=self._grain.rows * self._grain.block)
        ready = [prompt for prompt in self._prompts.values() if prompt.complete]
        for prompt in ready:
            del self._prompts[prompt.ids]
        begun = [(answer, prompt.chain) for prompt in ready for answer in prompt.answers]
        if begun:
            logits = [chain[-1].logits_V for _, chain in begun]
            logits_S_V = torch.stack([logits_V for logits_V in logits if logits_V is not None])
            self._accept([answer for answer, _ in begun], logits_S_V)
            for answer, chain in begun:
                if not answer.finished:
                    self._place(answer, chain)

    def _accept(self, answers: Sequence[Answer], logits_S_V: torch.Tensor) -> None:
        """Samples a token for each answer, and hands over those that are finished."""
        for answer, token in zip(answers, choose(logits_S_V, answers), strict=True):
            answer.accept(token, self.version)
            if answer.finished:
                answer.settle()
        self._sampled += len(answers)

    def _place(self, answer: Answer, blocks: Sequence[Block]) -> None:
        """Gives it a row in the smallest page that its next token fits into."""
        capacity = round_up(answer.position + 1, least=SMALLEST_PAGE)
        page = next((page for page in self._pages if page.capacity == capacity and not page.full), None)
        if page is None:
            page = Page(sizes=self._sizes, capacity=capacity)
            self._pages.append(page)
        page.put(answer, blocks)

    def _decode(self, page: Page) -> None:
        for answer in list(page.answers):
            if answer.done.cancelled():
                page.drop(answer)
            elif answer.position >= page.capacity:
                self._place(answer, [page.read(answer)])
                page.drop(answer)
        if not page.answers:
            self._discard(page)
            return
        answers = list(page.answers)
        self._accept(answers, self._forward.page(page))
        for answer in answers:
            if answer.finished:
                page.drop(answer)

    def _discard(self, page: Page) -> None:
        """Keeps one empty page of each capacity, as the next answers will need it."""
        if sum(other.capacity == page.capacity for other in self._pages) > 1:
            self._pages.remove(page)

    def _decoding(self) -> Iterator[Answer]:
        return (answer for page in self._pages for answer in page.answers)

    def _everyone(self) -> list[Answer]:
        prefilling = (answer for prompt in self._prompts.values() for answer in prompt.answers)
        return [*self._waiting, *prefilling, *self._decoding()]

    def _fail(self, error: Exception) -> None:
        for answer in self._everyone():
            failure = EngineError(f"sampling failed: {error!r}; every answer under way was ended")
            failure.__cause__ = error
            answer.fail(failure)
        self._reset()

    def _reset(self) -> None:
        self._waiting.clear()
        self._prompts.clear()
        self._pages.clear()
