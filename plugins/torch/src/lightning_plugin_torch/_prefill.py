"""Computes prompts block by block, several prompts at a time, in shapes that follow from places alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lightning_plugin_torch._answer import Answer
from lightning_plugin_torch._blocks import Block, Key, PrefixCache, key_of
from lightning_plugin_torch._cache import Rows
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._sizes import Grain, agreeing_rows


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt on its way through the model.

    Attributes:
        ids: Its tokens.
        answers: Who waits for it.
        chain: Its blocks so far.
        done: How many tokens they have.
    """

    ids: tuple[int, ...]
    answers: list[Answer] = field(default_factory=list)
    chain: list[Block] = field(default_factory=list)
    done: int = 0

    @property
    def complete(self) -> bool:
        """Whether the blocks have all of its tokens."""
        return self.done == len(self.ids)

    def ends_with(self, tokens: Sequence[int]) -> bool:
        """Whether it is over after these further tokens."""
        return self.done + len(tokens) == len(self.ids)

    def take(self, block: Block) -> None:
        """Goes on behind a block."""
        self.chain.append(block)
        self.done += block.length

    def restart(self) -> None:
        """Forgets its blocks."""
        self.chain.clear()
        self.done = 0


@dataclass(slots=True, eq=False)
class _Piece:
    """A block to be computed, for all who need it."""

    chain: tuple[Block, ...]
    tokens: tuple[int, ...]
    known: Block | None
    prompts: list[Prompt]


@dataclass(slots=True)
class PrefillCounts:
    """What prompts took.

    Attributes:
        computed_tokens: Prompt tokens that went through the model.
        reused_tokens: Prompt tokens whose keys and values another prompt had computed.
    """

    computed_tokens: int = 0
    reused_tokens: int = 0


class Prefiller:
    """Takes prompts through the model; what one of them computes is there for all.

    The tokens of a block stand in one row, after padding that nobody sees, so that its last token is always the last of
    the row. Rows of one place and width are computed together, as many as leave each row's numbers as they are alone.
    """

    def __init__(self, forward: Forward, cache: PrefixCache, *, grain: Grain) -> None:
        self._forward = forward
        self._cache = cache
        self._grain = grain
        self._rows: dict[int, tuple[int, ...]] = {}
        self.counts = PrefillCounts()

    def advance(self, prompts: Sequence[Prompt], *, tokens: int) -> None:
        """Computes the next blocks of prompts, the first ones first, until about so many tokens are done."""
        while tokens > 0:
            wanted, spent = self._wanted(prompts, tokens=tokens)
            for (start, width), pieces in wanted.items():
                for part in self._parts(list(pieces.values()), width=width):
                    self._compute(part, start=start, width=width)
            if not wanted:
                return
            tokens -= spent

    def _wanted(
        self, prompts: Sequence[Prompt], *, tokens: int
    ) -> tuple[dict[tuple[int, int], dict[Key, _Piece]], int]:
        """Blocks to compute by place and width, and how many tokens they are; what is there is taken."""
        wanted: dict[tuple[int, int], dict[Key, _Piece]] = {}
        spent = 0
        for prompt in prompts:
            piece = self._next(prompt)
            if piece is None:
                continue
            width = -(-len(piece.tokens) // self._grain.width) * self._grain.width
            alike = wanted.setdefault((prompt.done, width), {})
            same = alike.setdefault(key_of(piece.chain, piece.tokens), piece)
            if same is piece:
                spent += width
            else:
                same.prompts.append(prompt)
            if spent >= tokens:
                break
        return wanted, spent

    def _next(self, prompt: Prompt) -> _Piece | None:
        """The first block that is not there, after the prompt has taken those that are."""
        while not prompt.complete:
            tokens = prompt.ids[prompt.done : prompt.done + self._grain.block]
            found = self._cache.find(prompt.chain, tokens)
            if found is None or (prompt.ends_with(tokens) and found.logits_V is None):
                return _Piece(tuple(prompt.chain), tokens, found, [prompt])
            self._take(prompt, found, reused=True)
        return None

    def _take(self, prompt: Prompt, block: Block, *, reused: bool) -> None:
        if reused:
            self.counts.reused_tokens += block.length
        else:
            self.counts.computed_tokens += block.length
        prompt.take(block)
        if prompt.complete:
            self._cache.touch(prompt.ids, prompt.chain)

    def _parts(self, pieces: Sequence[_Piece], *, width: int) -> Iterator[Sequence[_Piece]]:
        """Cuts them so that each part has a safe number of rows."""
        if width not in self._rows:
            self._rows[width] = agreeing_rows(self._forward, width=width, most=self._grain.rows)
        at = 0
        while at < len(pieces):
            rows = next(rows for rows in reversed(self._rows[width]) if rows <= len(pieces) - at)
            yield pieces[at : at + rows]
            at += rows

    def _compute(self, pieces: Sequence[_Piece], *, start: int, width: int) -> None:
        rows = Rows([(piece.tokens, piece.chain) for piece in pieces], start=start, width=width)
        logits_R_V = self._forward.rows(rows)
        for row, piece in enumerate(pieces):
            ends = any(prompt.ends_with(piece.tokens) for prompt in piece.prompts)
            logits_V = logits_R_V[row].clone() if ends else None
            known = piece.known
            block = replace(known, logits_V=logits_V) if known else Block(*rows.read(row), logits_V)
            self._cache.keep(piece.chain, piece.tokens, block)
            for prompt in piece.prompts:
                self._take(prompt, block, reused=prompt is not piece.prompts[0])
