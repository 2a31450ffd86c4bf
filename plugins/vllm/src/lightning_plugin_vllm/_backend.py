"""Builds the backend; what it is made of is imported only then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentlightning.engine import Backend
from agentlightning.types import Json
from lightning_plugin_vllm._options import decode_options


def create_backend(options: Mapping[str, Json], *, seed: int, directory: Path) -> Backend:
    """Builds the engine and its learner; `engine.start` loads the model and starts or joins the servers.

    Args:
        options: See `_options.VllmOptions`.
        seed: Seed of the learner.
        directory: Where weights for the servers, their logs and rejected batches are kept.

    Raises:
        ConfigError: An option is unknown, has a wrong type or contradicts another.
        MissingExtra: The learner needs a package that is not installed.
    """
    from lightning_plugin_vllm._joined import VllmBackend

    return VllmBackend(decode_options(options), seed=seed, directory=Path(directory).absolute())
