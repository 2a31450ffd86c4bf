"""Contract of pipeline stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentlightning.types import Experience, Json


class Stage(Protocol):
    """A named pure function from experience to experience.

    Attributes:
        name: Name of its spec.
    """

    name: str

    def __call__(self, experience: Experience) -> Experience:
        """Returns new experience; what it leaves out it adds to `drops`, with the reason."""
        ...


class StageFactory(Protocol):
    """Target of a `StageSpec`: a class or function."""

    def __call__(self, params: Mapping[str, Json]) -> Stage:
        """Builds the stage; unknown parameters are a `ConfigError` (use `config.decode_params`)."""
        ...
