from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import pytest

from agentlightning.config import decode_params
from agentlightning.pipeline import BUILTIN_STAGES, Stage
from agentlightning.targets import load_target
from agentlightning.testing import StageContract
from agentlightning.types import Drop, Experience, Json

CHECKS = sorted(name for name in dir(StageContract) if name.startswith("test_"))


class NoParams(msgspec.Struct, frozen=True):
    pass


class Good:
    name = "good"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, NoParams, where="stage 'good'")

    def __call__(self, experience: Experience) -> Experience:
        return experience


class Nameless(Good):
    name = ""


class Lenient(Good):
    def __init__(self, params: Mapping[str, Json]) -> None:
        pass


class Moody(Good):
    moods = itertools.count()

    def __call__(self, experience: Experience) -> Experience:
        drop = Drop(id="x", reason=f"mood {next(self.moods)}")
        return replace(experience, drops=(drop,))


class Meddling(Good):
    def __call__(self, experience: Experience) -> Experience:
        for trajectory in experience.trajectories:
            trajectory.outcomes["extra"] = 1.0
        return experience


class Hungry(Good):
    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, episodes=experience.episodes[1:] if experience.episodes else (1 / 0,))


class Silent(Good):
    def __call__(self, experience: Experience) -> Experience:
        return replace(experience, trajectories=experience.trajectories[1:])


def failures(stage: type[Good]) -> list[str]:
    contract = StageContract()
    contract.create = stage  # type: ignore[method-assign]
    failed = []
    for name in CHECKS:
        try:
            getattr(contract, name)()
        except (AssertionError, ZeroDivisionError):
            failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("stage", "check"),
    [
        (Nameless, "test_it_has_a_name"),
        (Lenient, "test_an_unknown_parameter_is_refused"),
        (Moody, "test_the_same_experience_gives_the_same"),
        (Meddling, "test_its_input_is_left_alone"),
        (Hungry, "test_nothing_becomes_nothing"),
        (Silent, "test_what_it_leaves_out_has_a_reason"),
    ],
)
def test_each_broken_stage_fails_exactly_its_test(stage: type[Good], check: str) -> None:
    assert failures(stage) == [check]


def test_every_check_has_a_stage_that_fails_it() -> None:
    assert len(CHECKS) == 6
    assert failures(Good) == []


@pytest.mark.parametrize("spec", BUILTIN_STAGES, ids=lambda spec: spec.name)
def test_built_in_stages_keep_the_contract(spec: object) -> None:
    class Contract(StageContract):
        def create(self, params: Mapping[str, Json]) -> Stage:
            return load_target(spec.target)(params)  # type: ignore[attr-defined,operator,no-any-return]

    for name in CHECKS:
        getattr(Contract(), name)()
