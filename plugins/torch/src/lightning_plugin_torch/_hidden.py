"""Last hidden states of a forest's tokens, where something is predicted from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lightning_plugin_torch._last import Way, called
from lightning_plugin_torch._layout import Batch
from lightning_plugin_torch._model import LoadedModel, layers_of
from lightning_plugin_torch._small import small_batch

Forward = Callable[..., torch.Tensor]

SAME = {torch.float32: 1e-5}
"""Relative difference of hidden states that are equal but for rounding, by type."""
COARSELY_SAME = 0.02


def hidden_states(model: LoadedModel, batch: Batch) -> torch.Tensor:
    """Hidden states that predict the wanted nodes of a batch, `[K, D]`."""
    return _hidden(model, batch, way_of(model))


def way_of(model: LoadedModel) -> Way:
    """How the last layer can be called; tried out on a small tree the first time."""
    if model.last_layer.way is None:
        model.last_layer.way = _try(model)
    return model.last_layer.way


@torch.no_grad()
def _try(model: LoadedModel) -> Way:
    """The shortest way that neither fails on a small tree nor differs there."""
    batch, _ = small_batch(device=model.device, sparse=model.sparse)
    full_K_D = _hidden(model, batch, Way.FULL)
    for way in (Way.SHORT, Way.SPREAD):
        try:
            found_K_D = _hidden(model, batch, way)
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
            continue
        if found_K_D.shape == full_K_D.shape:
            difference = (found_K_D - full_K_D).float().norm() / full_K_D.float().norm()
            if difference <= SAME.get(full_K_D.dtype, COARSELY_SAME):
                return way
    return Way.FULL


def _hidden(model: LoadedModel, batch: Batch, way: Way) -> torch.Tensor:
    """The same, with the last layer called in some way."""
    base: Any = model.module.base_model
    layout = batch.layout
    unused = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=model.device)  # the layout says it all
    with _instead(_calls(model, batch, way)):
        output = base(
            input_ids=layout.token_ids_T[None],
            position_ids=layout.positions_T[None],
            attention_mask=unused,
            use_cache=False,
            sight=layout.sight,
        )
    hidden_T_D: torch.Tensor = output.last_hidden_state[0]
    if way is not Way.SHORT or layout.used is None:
        return hidden_T_D.index_select(0, batch.parent_K)
    return hidden_T_D if batch.used_K is None else hidden_T_D.index_select(0, batch.used_K)


def _calls(model: LoadedModel, batch: Batch, way: Way) -> dict[Any, Forward]:
    """What is called in place of some layers."""
    layers = layers_of(model.module)
    calls: dict[Any, Forward] = {}
    if layers and way is not Way.FULL and batch.layout.used is not None:
        calls[layers[-1]] = partial(
            called, layers[-1].forward, used=batch.layout.used, spread=way is Way.SPREAD
        )
    if model.checkpointing and torch.is_grad_enabled():
        for layer in layers:
            calls[layer] = partial(checkpoint, calls.get(layer, layer.forward), use_reentrant=False)
    return calls


@contextmanager
def _instead(calls: Mapping[Any, Forward]) -> Iterator[None]:
    """Calls something in place of layers inside the block."""
    own = {layer: vars(layer).get("forward") for layer in calls}
    for layer, call in calls.items():
        layer.forward = call
    try:
        yield
    finally:
        for layer, forward in own.items():
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward  # somebody else's stands in for its own
