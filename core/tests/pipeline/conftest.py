"""What the tests of the stages share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Experience, Json

Run = Callable[..., Experience]


@pytest.fixture
def run() -> Run:
    """Puts builders through the default stages and those with parameters, up to one of them."""

    def run_stages(
        *builders: EpisodeBuilder, upto: str | None = None, **params: dict[str, Json]
    ) -> Experience:
        names = [spec.name for spec in BUILTIN_STAGES if spec.default or spec.name in params]
        pipeline = Pipeline.from_specs(
            {spec.name: spec for spec in BUILTIN_STAGES},
            load=lambda spec: load_target(spec.target),
            chosen=[(name, params.get(name, {})) for name in names],
        )
        pipeline = pipeline.upto(upto) if upto else pipeline
        return pipeline.run(Experience(episodes=tuple(builder.build() for builder in builders)))

    return run_stages
