"""Joins servers and learner."""

from __future__ import annotations

import os
from pathlib import Path

from agentlightning.engine import InferenceEngine, Learner
from agentlightning.errors import ConfigError
from lightning_plugin_vllm._client import ServerClient
from lightning_plugin_vllm._engine import VllmEngine
from lightning_plugin_vllm._learner import create_learner
from lightning_plugin_vllm._options import VllmOptions
from lightning_plugin_vllm._replica import Replica, StartedReplica
from lightning_plugin_vllm._updates import AdapterUpdates, Updates, WeightUpdates
from lightning_plugin_vllm._weights import GivenWeights, TrainedWeights


class VllmBackend:
    """Servers of a model, and maybe what trains it."""

    def __init__(self, options: VllmOptions, *, seed: int, directory: Path) -> None:
        replicas = _replicas(options, directory)
        self.learner: Learner | None = None
        if options.serve_only:
            self.engine: InferenceEngine = VllmEngine(options, replicas, weights=GivenWeights(options))
            return
        weights = TrainedWeights(options, seed=seed, directory=directory)
        engine = VllmEngine(options, replicas, weights=weights)
        updates: Updates
        if options.lora_rank:
            updates = AdapterUpdates(engine, options, write=weights.learner.save_adapter, directory=directory)
        else:
            updates = WeightUpdates(engine, options, write=weights.learner.save_model, directory=directory)
        self.engine = engine
        self.learner = create_learner(engine, weights, updates)


def _replicas(options: VllmOptions, directory: Path) -> list[Replica]:
    if not options.servers:
        return [
            StartedReplica(options, index=index, directory=directory) for index in range(options.replicas)
        ]
    key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
    if options.api_key_env and not key:
        raise ConfigError(
            f"engine 'vllm' takes its servers' key from {options.api_key_env!r}, which is not set; set it"
        )
    return [
        Replica(ServerClient(url, key=key, timeout_s=options.update_timeout_s)) for url in options.servers
    ]
