"""How many rows a decoding step may have, so that each row comes out bit by bit the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from agentlightning.errors import EngineError
from lightning_plugin_torch._answer import Answer, SamplingParams, Token
from lightning_plugin_torch._blocks import Block
from lightning_plugin_torch._cache import Page, Rows
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._model import LoadedModel

SMALL_STEPS = (4, 8, 16, 32, 64)
LARGE_STEPS = (1, 2, 4, 8)
PROBE_CAPACITY = 16


@dataclass(frozen=True, slots=True)
class Grain:
    """How prompts are cut into blocks.

    Attributes:
        block: Tokens of a block.
        width: The last block of a prompt is padded to a multiple of it.
        rows: Most blocks that are computed together.
    """

    block: int
    width: int
    rows: int


def grain_of(model: LoadedModel) -> Grain:
    """How prompts are cut for a model: where calls cost more than arithmetic, in larger portions."""
    if model.device.type == "cuda":
        return Grain(block=256, width=32, rows=8)
    return Grain(block=64, width=16, rows=8 if model.small else 1)


def round_up(size: int, *, least: int) -> int:
    """The next number of the form least * 2^n or least * 3 * 2^(n-1): at most a third of it is unused."""
    step = least
    while step < size:
        if step * 3 // 2 >= size:
            return step * 3 // 2
        step *= 2
    return step


def safe_sizes(forward: Forward, *, largest: int) -> tuple[int, ...]:
    """Numbers of rows among which a row's result depends neither on the number nor on its place.

    Matrix kernels are chosen by shape and may add up in another order. Which shapes agree differs between machines, so
    it is tried out here. One row is always safe.

    Args:
        forward: The model.
        largest: Most rows; 0 chooses by model and device.

    Raises:
        EngineError: The architecture cannot be sampled from step by step.
    """
    try:
        return _agreeing_steps(forward, largest)
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        name = type(forward.model.module).__name__
        raise EngineError(
            f"the architecture {name} cannot be sampled from with a cache of its keys and values ({error}); "
            "choose a decoder with full attention in every layer, such as Llama or Qwen"
        ) from error


@torch.inference_mode()
def agreeing_rows(forward: Forward, *, width: int, most: int) -> tuple[int, ...]:
    """Numbers of blocks of a width that can be computed together, each with the numbers that it has alone; rising."""
    sizes = [1]
    if most > 1:
        alone = [_block(forward, [number], width=width) for number in range(most)]
        size = 2
        while size <= most:
            together = _block(forward, range(size), width=width)
            if all(map(torch.equal, together, map(torch.cat, zip(*alone[:size], strict=True)))):
                sizes.append(size)
            size *= 2
    return tuple(sizes)


def _block(forward: Forward, numbers: Sequence[int], *, width: int) -> list[torch.Tensor]:
    """Logits, keys and values of different blocks, each `[R, …]`."""
    vocabulary = forward.model.vocabulary
    tokens = [[(number * 7919 + place * 31) % vocabulary for place in range(width)] for number in numbers]
    rows = Rows([(row, ()) for row in tokens], start=0, width=width)
    logits_R_V = forward.rows(rows)
    read = [rows.read(row) for row in range(len(tokens))]
    layers = zip(*([*keys, *values] for keys, values in read), strict=True)
    return [logits_R_V, *(torch.stack(layer) for layer in layers)]


def _agreeing_steps(forward: Forward, largest: int) -> tuple[int, ...]:
    model = forward.model
    usual = SMALL_STEPS if model.small or model.device.type == "cuda" else LARGE_STEPS
    top = largest or usual[-1]
    for size in sorted({top, *(size for size in usual if size < top)}, reverse=True):
        whole = _decode(forward, range(size))
        if not torch.equal(whole, _decode(forward, range(size - 1, -1, -1)).flip(0)):
            continue
        smaller = (s for s in usual if s < size)
        return (*(s for s in smaller if torch.equal(_decode(forward, range(s)), whole[:s])), size)
    return (1,)


@torch.inference_mode()
def _decode(forward: Forward, order: Sequence[int]) -> torch.Tensor:
    """Logits `[S, V]` of a step over different answers, put into rows in the given order."""
    rows = Rows([(range(PROBE_CAPACITY // 2), ())], start=0, width=PROBE_CAPACITY // 2)
    forward.rows(rows)
    keys, values = rows.read(0)
    page = Page(sizes=(len(order),), capacity=PROBE_CAPACITY)
    for number in order:
        answer = _answer(number % forward.model.vocabulary)
        page.put(answer, [Block([key * (1 + number / 64) for key in keys], values)])
    return forward.page(page)


def _answer(token: int) -> Answer:
    params = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=1, seed=0, choice=0)
    prompt = [0] * (PROBE_CAPACITY // 2)
    return Answer(
        prompt=prompt, params=params, end_ids=frozenset(), done=Future(), tokens=[Token(token, 0.0)]
    )
