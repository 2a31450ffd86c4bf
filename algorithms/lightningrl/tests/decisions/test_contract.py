from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from agentlightning.algorithm import Algorithm
from agentlightning.compose import TogetherAlgorithm
from agentlightning.testing import AlgorithmContract, EpisodeBuilder
from agentlightning.types import Json
from lightning_algorithm_lightningrl import create as create_lightningrl
from lightning_algorithm_lightningrl.decisions import create

SMALL: dict[str, Json] = {"updates": 4, "tasks_per_update": 4, "group_size": 4, "checkpoint_every": 2}


class TestDecisionsAlone(AlgorithmContract):
    def create(self, params: Mapping[str, Json]) -> Algorithm:
        return create(params)

    def params(self, folder: Path) -> dict[str, Json]:
        return {**SMALL, "promote_every": 2}

    def play(self, task: Json, episode: EpisodeBuilder, version: int) -> None:
        """A call and a decision, each even or odd by chance."""
        generator = random.Random(f"{episode.rollout_id}/{task}")
        index = generator.randrange(2)
        attributes: dict[str, Json] = {
            "agl.decision.name": "tool",
            "agl.decision.options": ["a", "b"],
            "agl.decision.choice": "ab"[index],
            "agl.decision.propensity": 0.5,
            "agl.state": {"task": task},
        }
        episode.span("agl.decision", attributes=attributes)
        super().play(task, episode, version)


class TestDecisionsTogetherWithTokens(TestDecisionsAlone):
    def create(self, params: Mapping[str, Json]) -> Algorithm:
        return TogetherAlgorithm([create_lightningrl(SMALL), create(params)])
