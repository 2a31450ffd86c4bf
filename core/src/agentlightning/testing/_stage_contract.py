"""What every pipeline stage must do: subclass `StageContract` in a test module."""

# ruff: noqa: S101  (a contract kit asserts)
from __future__ import annotations

import copy
from collections.abc import Mapping

from agentlightning.errors import ConfigError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline, Stage
from agentlightning.targets import load_target
from agentlightning.testing._episode_builder import EpisodeBuilder
from agentlightning.types import Experience, FailureClass, Json


class StageContract:
    """Tests that a stage is a pure function and says what it leaves out."""

    def create(self, params: Mapping[str, Json]) -> Stage:
        """Builds the stage, as its spec's target does."""
        raise NotImplementedError

    def experience(self) -> Experience:
        """What the stage is tried on: by default a group of four, one of them failed, through the default pipeline."""
        builders = [EpisodeBuilder(rollout_id=f"r{number}", group="g", sample=number) for number in range(4)]
        for number, builder in enumerate(builders):
            first = builder.call([1, 2], [3 + number], agent="writer")
            builder.call([1, 2, 3 + number, 9], [4], agent="writer")
            builder.reward(number / 4)
            builder.reward(0.5, target=first)
        builders[3].failure = FailureClass.LOST
        pipeline = Pipeline.from_specs(
            {spec.name: spec for spec in BUILTIN_STAGES}, load=lambda spec: load_target(spec.target)
        )
        return pipeline.run(Experience(episodes=tuple(builder.build() for builder in builders)))

    def test_it_has_a_name(self) -> None:
        """The name is what configurations and reports call it."""
        assert self.create({}).name

    def test_an_unknown_parameter_is_refused(self) -> None:
        """A mistyped key must not be taken for silence."""
        try:
            self.create({"no_such_parameter": 1})
        except ConfigError as error:
            assert "no_such_parameter" in str(error)  # noqa: PT017
        else:
            raise AssertionError("an unknown parameter was accepted")

    def test_the_same_experience_gives_the_same(self) -> None:
        """Twice on equal input, by two instances: equal output."""
        assert self.create({})(self.experience()) == self.create({})(self.experience())

    def test_its_input_is_left_alone(self) -> None:
        """Also what is inside dictionaries."""
        given = self.experience()
        before = copy.deepcopy(given)
        self.create({})(given)
        assert given == before

    def test_nothing_becomes_nothing(self) -> None:
        """Empty experience is no error."""
        assert not any(self.create({})(Experience()).counts().values())

    def test_what_it_leaves_out_has_a_reason(self) -> None:
        """No trajectory disappears in silence, and the drops of others stay."""
        given = self.experience()
        done = self.create({})(given)
        missing = len(given.trajectories) - len(done.trajectories)
        assert missing <= len(done.drops)
        assert all(drop.reason for drop in done.drops)
