"""Keeps a batch that could not be trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from agentlightning.types import TokenForest, TokenTree

COLUMNS = (
    "token_ids",
    "parents",
    "logprobs",
    "versions",
    "advantages",
    "weights",
    "old_logprobs",
    "reference_logprobs",
    "values",
    "returns",
)


def keep_batch(forest: TokenForest, path: Path) -> None:
    """Writes a forest as JSON; numbers that are not finite are written as Python's `json` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_as_json(tree) for tree in forest.trees]), encoding="utf-8")


def _as_json(tree: TokenTree) -> dict[str, object]:
    return {
        "group": tree.group,
        **{name: getattr(tree, name).tolist() for name in COLUMNS},
        "calls": [asdict(call) for call in tree.calls],
    }
