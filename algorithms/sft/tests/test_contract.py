from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentlightning.algorithm import Algorithm
from agentlightning.testing import AlgorithmContract
from agentlightning.types import Json
from lightning_algorithm_sft import create


class TestSFT(AlgorithmContract):
    def create(self, params: Mapping[str, Json]) -> Algorithm:
        return create(params)

    def params(self, folder: Path) -> dict[str, Json]:
        path = folder / "demonstrations.jsonl"
        talks = [
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": str(number)}]}
            for number in range(5)
        ]
        path.write_text("\n".join(map(json.dumps, talks)))
        return {"demonstrations": str(path), "steps": 4, "batch_size": 2, "checkpoint_every": 2}
