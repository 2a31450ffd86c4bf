"""One answer while it is being sampled."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

TopLogprobs = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Share of the probability mass that is sampled from.
        max_tokens: Most tokens in the answer.
        seed: Fixes every random choice together with the choice's index and the token's place.
        choice: Index among the answers to one request.
        top_logprobs: How many alternatives are reported per token.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    choice: int
    top_logprobs: int = 0

    def uniform(self, place: int) -> float:
        """The number in [0, 1) that decides the token at `place`, from 0; it depends on nothing else."""
        key = struct.pack("<QQQ", self.seed & (2**64 - 1), self.choice, place)
        return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) / 2**53


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    Attributes:
        id: Its id.
        logprob: Natural-log probability under the distribution it was reported for.
        top: The most likely alternatives, most likely first.
    """

    id: int
    logprob: float
    top: TopLogprobs = field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False)
class Answer:
    """One answer while it is being sampled; owned by the worker's thread once it is submitted.

    Attributes:
        prompt: Prompt ids.
        params: How tokens are chosen.
        request: Id of the request that it answers.
        end_ids: Tokens that end the answer.
        watch: Is told each token; true ends the answer (stop strings).
        sink: Is told each token as it is sampled (streaming).
        done: Settled with the sequence itself at the end; cancelling it frees the slot.
        tokens: What was sampled.
        runs: Policy versions that sampled it, each with its number of tokens, in order.
        finished: `stop` or `length` at the end.
    """

    prompt: list[int]
    params: SamplingParams
    end_ids: frozenset[int]
    watch: Callable[[int], bool] | None = None
    sink: Callable[[Token], None] | None = None
    done: Future[Answer] = field(default_factory=Future)
    tokens: list[Token] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    request: str = ""
    finished: str = ""

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and what was sampled after it."""
        return (*self.prompt, *(token.id for token in self.tokens))

    @property
    def position(self) -> int:
        """Position of the next token to feed: the last one sampled."""
        return len(self.prompt) + len(self.tokens) - 1

    def accept(self, token: Token, version: int) -> None:
        """Takes the next token and decides whether it is the last."""
        self.tokens.append(token)
        if self.runs and self.runs[-1][0] == version:
            self.runs[-1] = (version, self.runs[-1][1] + 1)
        else:
            self.runs.append((version, 1))
        if token.id in self.end_ids or (self.watch is not None and self.watch(token.id)):
            self.finished = "stop"
        elif len(self.tokens) >= self.params.max_tokens:
            self.finished = "length"
        if self.sink is not None:
            self.sink(token)

    def settle(self) -> None:
        """Hands the finished answer over."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(self)

    def fail(self, error: BaseException) -> None:
        """Hands an error over instead."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)
