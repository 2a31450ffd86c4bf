"""The model's forward passes while it samples: blocks of prompts, and one token for every row of a page."""

from __future__ import annotations

import torch

from lightning_plugin_torch._cache import Page, Rows
from lightning_plugin_torch._model import LoadedModel

PLACES_KEPT = 4
"""Places of a row whose logits are computed, though one is used: matrix kernels differ for fewer than a few rows."""


class Forward:
    """Logits for sampling, in float32; keys and values are left where they belong."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def rows(self, rows: Rows) -> torch.Tensor:
        """Logits `[R, V]` after the last token of each row."""
        return self._logits(rows, rows.feed(self.model.device), kept=PLACES_KEPT)

    def page(self, page: Page) -> torch.Tensor:
        """Logits `[S, V]` after the last token of each row of a page."""
        return self._logits(page, page.feed(), kept=1)

    def _logits(
        self, cache: Rows | Page, feed: tuple[torch.Tensor, torch.Tensor, torch.Tensor], *, kept: int
    ) -> torch.Tensor:
        ids, positions, visible = feed
        output = self.model.module(
            input_ids=ids,
            position_ids=positions,
            attention_mask=visible,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=kept,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
