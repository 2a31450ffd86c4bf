"""What to install for a name that no installed plugin provides, where this project has a package for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PACKAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "algorithm": {name: f"lightning-algorithm-{name}" for name in ("apo", "lightningrl", "memory", "sft")},
    "adapter": {
        name: f"lightning-adapter-{name}"
        for name in (
            "agent-framework",
            "anthropic",
            "autogen",
            "crewai",
            "langchain",
            "langgraph",
            "openai",
            "openai-agents",
        )
    },
    "engine": {name: f"lightning-plugin-{name}" for name in ("tinker", "torch", "verl", "vllm")},
    "store": {
        "http": "lightning-plugin-server",
        "https": "lightning-plugin-server",
        "postgres": "lightning-plugin-postgres",
        "postgresql": "lightning-plugin-postgres",
    },
    "launcher": {name: f"lightning-plugin-{name}" for name in ("kubernetes", "ray")},
    "app": {name: f"lightning-plugin-{name}" for name in ("dashboard", "gateway")},
    "observer": dict.fromkeys(("mlflow", "tensorboard", "trackio", "wandb"), "lightning-plugin-trackers"),
    "command": dict.fromkeys(("serve", "work"), "lightning-plugin-server"),
}


def install_hint(kind: str, name: str) -> str:
    """The distribution that provides it; empty if none of ours does."""
    return _PACKAGES.get(kind, {}).get(name, "")
