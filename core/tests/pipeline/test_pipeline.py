from __future__ import annotations

from dataclasses import replace

import pytest

from agentlightning.errors import ConfigError, StageError
from agentlightning.pipeline import BUILTIN_STAGES, Pipeline
from agentlightning.specs import StageSpec
from agentlightning.targets import load_target
from agentlightning.testing import EpisodeBuilder
from agentlightning.types import Drop, Experience

SPECS = {spec.name: spec for spec in BUILTIN_STAGES}


class Keep:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, experience: Experience) -> Experience:
        return experience


class LeaveOutFirst(Keep):
    def __call__(self, experience: Experience) -> Experience:
        drop = Drop(id=experience.episodes[0].rollout.id, reason="came first")
        return replace(experience, episodes=experience.episodes[1:], drops=(*experience.drops, drop))


class Fail(Keep):
    def __call__(self, experience: Experience) -> Experience:
        raise ZeroDivisionError("division by zero")


def load(spec: StageSpec) -> object:
    return load_target(spec.target)


def pipeline(*names: str) -> Pipeline:
    return Pipeline(tuple(Keep(name) for name in names))


def test_the_default_pipeline_has_the_built_in_stages_in_order() -> None:
    assert Pipeline.from_specs(SPECS, load=load).names == (
        "normalise",
        "join",
        "order",
        "select",
        "transitions",
        "rewards",
        "validate",
        "credit",
        "group",
        "forest",
    )


def test_built_in_stages_are_listed_in_their_order() -> None:
    assert [spec.order for spec in BUILTIN_STAGES] == sorted({spec.order for spec in BUILTIN_STAGES})


def test_chosen_stages_come_in_the_order_given_with_their_parameters() -> None:
    chosen = [("group", {}), ("select", {"agents": ["writer"]})]
    assert Pipeline.from_specs(SPECS, load=load, chosen=chosen).names == ("group", "select")


def test_a_stage_that_is_not_default_joins_only_when_chosen() -> None:
    extra = StageSpec(name="extra", target=f"{__name__}:Keep", order=150)
    specs = SPECS | {"extra": extra}
    assert "extra" not in Pipeline.from_specs(specs, load=load).names


def test_an_unknown_stage_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no stage 'transition'; did you mean 'transitions'"):
        Pipeline.from_specs(SPECS, load=load, chosen=[("transition", {})])


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="stage 'credit' has no setting 'modus'; did you mean 'mode'"):
        Pipeline.from_specs(SPECS, load=load, chosen=[("credit", {"modus": "outcome"})])


def test_agents_to_train_need_the_stage_that_knows_agents() -> None:
    with pytest.raises(ConfigError, match="no stage 'select'"):
        Pipeline.from_specs(SPECS, load=load, chosen=[("group", {})], agents=["writer"])


def test_a_stage_is_in_a_pipeline_once() -> None:
    with pytest.raises(ConfigError, match="'a' is there twice"):
        pipeline("a", "a")


def test_stages_are_inserted_before_and_after_others() -> None:
    start = pipeline("a", "b")
    assert start.insert(Keep("x"), before="a").names == ("x", "a", "b")
    assert start.insert(Keep("x"), after="a").names == ("a", "x", "b")
    assert start.names == ("a", "b")


def test_an_insertion_names_exactly_one_neighbour() -> None:
    with pytest.raises(ConfigError, match="exactly one of before= and after="):
        pipeline("a").insert(Keep("x"))
    with pytest.raises(ConfigError, match="exactly one of before= and after="):
        pipeline("a").insert(Keep("x"), before="a", after="a")


def test_stages_are_removed_replaced_and_reordered() -> None:
    start = pipeline("a", "b", "c")
    assert start.without("b").names == ("a", "c")
    assert start.replaced("b", Keep("x")).names == ("a", "x", "c")
    assert start.reordered(["c", "a", "b"]).names == ("c", "a", "b")


def test_a_new_order_names_every_stage_once() -> None:
    with pytest.raises(ConfigError, match="names each of"):
        pipeline("a", "b").reordered(["a"])
    with pytest.raises(ConfigError, match="names each of"):
        pipeline("a", "b").reordered(["a", "b", "b"])


def test_changing_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no stage 'forst'; did you mean 'forest'"):
        pipeline("forest").without("forst")


def test_each_stage_is_reported_with_counts_and_reasons() -> None:
    episodes = tuple(EpisodeBuilder(rollout_id=name).build() for name in "abc")
    stages = Pipeline((LeaveOutFirst("first"), LeaveOutFirst("second"), Keep("third")))
    done = stages.run(Experience(episodes=episodes))
    assert [report.stage for report in done.reports] == ["first", "second", "third"]
    assert [report.before["episodes"] for report in done.reports] == [3, 2, 1]
    assert [report.after["episodes"] for report in done.reports] == [2, 1, 1]
    assert [report.dropped for report in done.reports] == [{"came first": 1}, {"came first": 1}, {}]
    assert done.drops == ()


def test_a_stage_that_raises_is_named() -> None:
    with pytest.raises(StageError, match="stage 'bad' failed: ZeroDivisionError: division") as caught:
        Pipeline((Keep("good"), Fail("bad"))).run(Experience())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
