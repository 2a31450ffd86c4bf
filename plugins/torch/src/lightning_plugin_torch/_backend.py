"""Builds the backend; torch itself is imported only then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentlightning.engine import Backend
from agentlightning.types import Json


def create_backend(options: Mapping[str, Json], *, seed: int, directory: Path) -> Backend:
    """Builds the sampler and the learner of one model; `engine.start` loads it.

    Args:
        options: See `_options.TorchOptions`; exactly one of `model` and `build` is given.
        seed: Seed of the initial weights and of unseeded requests.
        directory: Where a built model and rejected batches are kept.

    Raises:
        ConfigError: An option is unknown or has a wrong type, or the model does not exist.
    """
    from lightning_plugin_torch._options import decode_options

    decoded = decode_options(options)

    from lightning_plugin_torch._engine import TorchBackend

    return TorchBackend(decoded, seed=seed, directory=Path(directory))
