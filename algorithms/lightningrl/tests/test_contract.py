from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentlightning.algorithm import Algorithm
from agentlightning.testing import AlgorithmContract
from agentlightning.types import Json
from lightning_algorithm_lightningrl import create


class TestLightningRL(AlgorithmContract):
    def create(self, params: Mapping[str, Json]) -> Algorithm:
        return create(params)

    def params(self, folder: Path) -> dict[str, Json]:
        return {"updates": 4, "tasks_per_update": 2, "group_size": 4, "checkpoint_every": 2}
