"""Tries out whether an architecture computes a forest as it computes its rows."""

from __future__ import annotations

import torch

from agentlightning.errors import ConfigError
from lightning_plugin_torch._cache import Recorder
from lightning_plugin_torch._hidden import hidden_states
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._small import small_batch

TOLERANCE = {torch.float32: 1e-3}
COARSE_TOLERANCE = 0.1


@torch.no_grad()
def check_forest(model: LoadedModel) -> None:
    """Compares logits at the ends of two branches of a small tree with those of plain sequences.

    Raises:
        ConfigError: They differ: the architecture does something between tokens, or after its output head, that the
            forest leaves out.
    """
    batch, paths = small_batch(device=model.device, sparse=model.sparse)
    logits_K_V = model.head(hidden_states(model, batch))
    plain_K_V = torch.cat([model.prefill(path, Recorder()) for path in paths])
    worst = ((logits_K_V - plain_K_V).abs().max() / plain_K_V.abs().max().clamp(min=1.0)).item()
    if not worst <= TOLERANCE.get(computing_dtype(model), COARSE_TOLERANCE):
        raise ConfigError(
            f"the architecture {type(model.module).__name__} computes a token tree differently from its rows (relative "
            f"difference {worst:.2g}); it can be sampled from, but not trained here"
        )


def computing_dtype(model: LoadedModel) -> torch.dtype:
    """Type in which the model computes."""
    return next(model.module.parameters()).dtype
