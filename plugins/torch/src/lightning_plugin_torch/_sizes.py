"""How many rows a decoding step may have, so that each row comes out bit by bit the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import torch

from agentlightning.errors import EngineError
from lightning_plugin_torch._answer import Answer, SamplingParams, Token
from lightning_plugin_torch._cache import Page, Recorder
from lightning_plugin_torch._model import LoadedModel

SMALL_STEPS = (8, 16, 32, 64)
LARGE_STEPS = (1, 2, 4, 8)
PROBE_CAPACITY = 16


def round_up(size: int, *, least: int) -> int:
    """The next number of the form least * 2^n or least * 3 * 2^(n-1): at most a third of it is unused."""
    step = least
    while step < size:
        if step * 3 // 2 >= size:
            return step * 3 // 2
        step *= 2
    return step


def safe_sizes(model: LoadedModel, *, largest: int) -> tuple[int, ...]:
    """Numbers of rows among which a row's result depends neither on the number nor on its place.

    Matrix kernels are chosen by shape and may add up in another order. Which shapes agree differs between machines, so
    it is tried out here. One row is always safe.

    Args:
        model: The model.
        largest: Most rows; 0 chooses by model and device.

    Raises:
        EngineError: The architecture cannot be sampled from step by step.
    """
    try:
        return _agreeing(model, largest)
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        name = type(model.module).__name__
        raise EngineError(
            f"the architecture {name} cannot be sampled from with a cache of its keys and values ({error}); "
            "choose a decoder with full attention in every layer, such as Llama or Qwen"
        ) from error


def _agreeing(model: LoadedModel, largest: int) -> tuple[int, ...]:
    usual = SMALL_STEPS if model.small or model.device.type == "cuda" else LARGE_STEPS
    top = largest or usual[-1]
    for size in sorted({top, *(size for size in usual if size < top)}, reverse=True):
        whole = _decode(model, range(size))
        if not torch.equal(whole, _decode(model, range(size - 1, -1, -1)).flip(0)):
            continue
        smaller = (s for s in usual if s < size)
        return (*(s for s in smaller if torch.equal(_decode(model, range(s)), whole[:s])), size)
    return (1,)


@torch.inference_mode()
def _decode(model: LoadedModel, order: Sequence[int]) -> torch.Tensor:
    """Logits `[S, V]` of a step over different answers, put into rows in the given order."""
    page = Page(sizes=(len(order),), capacity=PROBE_CAPACITY)
    recorder = Recorder()
    model.prefill(tuple(range(PROBE_CAPACITY // 2)), recorder)
    for number in order:
        answer = _answer(number % model.vocabulary)
        keys = [key[0] * (1 + number / 64) for key in recorder.keys]
        page.put(answer, keys=keys, values=[value[0] for value in recorder.values])
    return model.decode(page)


def _answer(token: int) -> Answer:
    params = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=1, seed=0, choice=0)
    prompt = [0] * (PROBE_CAPACITY // 2)
    return Answer(
        prompt=prompt, params=params, end_ids=frozenset(), done=Future(), tokens=[Token(token, 0.0)]
    )
