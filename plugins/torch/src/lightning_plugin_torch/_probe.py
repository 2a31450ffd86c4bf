"""Tries out whether an architecture computes a forest as it computes its rows."""

from __future__ import annotations

from array import array

import numpy as np
import torch

from agentlightning.errors import ConfigError
from agentlightning.types import TokenTree
from lightning_plugin_torch._cache import Recorder
from lightning_plugin_torch._layout import lay_out
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._parts import Part
from lightning_plugin_torch._runs import Runs

TOLERANCE = {torch.float32: 1e-3}
COARSE_TOLERANCE = 0.1


@torch.no_grad()
def check_forest(model: LoadedModel) -> None:
    """Compares logits at the ends of two branches of a small tree with those of plain sequences.

    Raises:
        ConfigError: They differ: the architecture does something between tokens, or after its output head, that the
            forest leaves out.
    """
    tree = _tree(array("i", [1, 2, 3, 4, 0, 5, 4, 0]), array("i", [-1, 0, 1, 2, 3, 1, 5, 6]))
    ends = [4, 7]
    runs = Runs.of(tree)
    nodes_K = np.array(ends)
    part = Part(0, tree, runs, nodes_K, runs.ancestors(runs.last_wanted(nodes_K)))
    batch = lay_out([part], device=model.device, sparse=model.sparse)
    logits_K_V = model.head(model.hidden(batch.layout)[batch.parent_K])
    plain_K_V = torch.cat([model.prefill(tuple(tree.path(end)[:-1]), Recorder()) for end in ends])
    worst = ((logits_K_V - plain_K_V).abs().max() / plain_K_V.abs().max().clamp(min=1.0)).item()
    if not worst <= TOLERANCE.get(computing_dtype(model), COARSE_TOLERANCE):
        raise ConfigError(
            f"the architecture {type(model.module).__name__} computes a token tree differently from its rows (relative "
            f"difference {worst:.2g}); it can be sampled from, but not trained here"
        )


def computing_dtype(model: LoadedModel) -> torch.dtype:
    """Type in which the model computes."""
    return next(model.module.parameters()).dtype


def _tree(token_ids: array[int], parents: array[int]) -> TokenTree:
    positions = array("i")
    for parent in parents:
        positions.append(positions[parent] + 1 if parent >= 0 else 0)
    zeros = array("f", bytes(4 * len(token_ids)))
    return TokenTree(
        group="",
        token_ids=token_ids,
        parents=parents,
        positions=positions,
        logprobs=zeros,
        versions=array("i", [-1] * len(token_ids)),
        advantages=zeros,
        weights=zeros,
        calls=(),
    )
