"""Trains any LLM agent without changing it.

The public names load on first use, so that `import agentlightning` stays cheap inside an agent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.agents import agent
    from agentlightning.budget import Budget
    from agentlightning.command import CommandAgent
    from agentlightning.compose import alternate, part, sequence, together
    from agentlightning.emit import (
        decide,
        emit_action,
        emit_message,
        emit_object,
        emit_reward,
        emit_state,
        operation,
        prompt,
        resource,
    )
    from agentlightning.engine import OptimizerConfig
    from agentlightning.errors import AglError
    from agentlightning.gateway import HttpUpstream, Sampling
    from agentlightning.plugins import hookimpl
    from agentlightning.store import open_store
    from agentlightning.trainer import Trainer
    from agentlightning.types import Mode, ModelEndpoint, PromptTemplate, ResourceSet, RolloutConfig

_HOMES = {
    "AglError": "errors",
    "Budget": "budget",
    "CommandAgent": "command",
    "HttpUpstream": "gateway",
    "Mode": "types",
    "ModelEndpoint": "types",
    "OptimizerConfig": "engine",
    "PromptTemplate": "types",
    "ResourceSet": "types",
    "RolloutConfig": "types",
    "Sampling": "gateway",
    "Trainer": "trainer",
    "agent": "agents",
    "alternate": "compose",
    "decide": "emit",
    "emit_action": "emit",
    "emit_message": "emit",
    "emit_object": "emit",
    "emit_reward": "emit",
    "emit_state": "emit",
    "open_store": "store",
    "hookimpl": "plugins",
    "operation": "emit",
    "part": "compose",
    "prompt": "emit",
    "resource": "emit",
    "sequence": "compose",
    "together": "compose",
}

__all__ = [
    "AglError",
    "Budget",
    "CommandAgent",
    "HttpUpstream",
    "Mode",
    "ModelEndpoint",
    "OptimizerConfig",
    "PromptTemplate",
    "ResourceSet",
    "RolloutConfig",
    "Sampling",
    "Trainer",
    "agent",
    "alternate",
    "decide",
    "emit_action",
    "emit_message",
    "emit_object",
    "emit_reward",
    "emit_state",
    "hookimpl",
    "open_store",
    "operation",
    "part",
    "prompt",
    "resource",
    "sequence",
    "together",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentlightning' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"agentlightning.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
