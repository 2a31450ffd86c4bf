"""The pipeline: stages in order, each run reported."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from agentlightning.errors import ConfigError, StageError
from agentlightning.pipeline._stage import Stage, StageFactory
from agentlightning.specs import StageSpec
from agentlightning.types import Drop, Experience, Json, Remark, StageReport

_REASONS: Final = 50
"""Most different reasons in the report of a stage."""
_OTHERS: Final = "other reasons"
_IDS: Final = 3
"""Most ids that a report keeps of one reason."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in order. Immutable: each method that changes it returns a new one.

    Attributes:
        stages: The stages, first to run first; names are unique.

    Raises:
        ConfigError: Two stages have one name.
    """

    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ConfigError(f"a pipeline has each stage once, but {twice[0]!r} is there twice; rename one")

    @classmethod
    def from_specs(
        cls,
        specs: Mapping[str, StageSpec],
        *,
        load: Callable[[StageSpec], object],
        chosen: Iterable[tuple[str, Mapping[str, Json]]] | None = None,
        agents: Sequence[str] = (),
    ) -> Pipeline:
        """Builds the stages of a run.

        Args:
            specs: What plugins registered, by name.
            load: Imports a spec's target.
            chosen: Names and parameters in order; None is every spec marked `default`, by order and name.
            agents: Agents to train, handed to the stage `select`; empty is all.

        Raises:
            ConfigError: A stage is not registered, is there twice, or refuses its parameters.
        """
        if chosen is None:
            defaults = [spec for spec in specs.values() if spec.default]
            defaults.sort(key=lambda spec: (spec.order, spec.name))
            chosen = [(spec.name, {}) for spec in defaults]
        wanted = [(name, dict(params)) for name, params in chosen]
        for name, params in wanted:
            _check_name(name, specs)
            if agents and name == "select":
                params.setdefault("agents", list(agents))
        if agents:
            _check_name("select", [name for name, _ in wanted])
        return cls(tuple(cast("StageFactory", load(specs[name]))(params) for name, params in wanted))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(stage.name for stage in self.stages)

    def run(self, experience: Experience) -> Experience:
        """Puts experience through every stage, with one report per stage.

        Raises:
            StageError: A stage failed; the message names it, the cause is what it raised.
        """
        for stage in self.stages:
            experience = _run_stage(stage, experience)
        return experience

    def index(self, name: str) -> int:
        """Place of a stage, from 0.

        Raises:
            ConfigError: No stage has that name; the message has the nearest one.
        """
        _check_name(name, self.names)
        return self.names.index(name)

    def insert(self, stage: Stage, *, before: str | None = None, after: str | None = None) -> Pipeline:
        """Adds a stage before or after another one.

        Raises:
            ConfigError: That stage is not there, or not exactly one of `before` and `after` is given.
        """
        if before is not None and after is None:
            place = self.index(before)
        elif after is not None and before is None:
            place = self.index(after) + 1
        else:
            raise ConfigError(
                f"stage {stage.name!r} needs exactly one of before= and after=, got {before!r} and {after!r}"
            )
        return Pipeline((*self.stages[:place], stage, *self.stages[place:]))

    def upto(self, name: str) -> Pipeline:
        """The stages up to and including one. Raises `ConfigError` if it is not there."""
        return Pipeline(self.stages[: self.index(name) + 1])

    def without(self, name: str) -> Pipeline:
        """Leaves a stage out. Raises `ConfigError` if it is not there."""
        place = self.index(name)
        return Pipeline(self.stages[:place] + self.stages[place + 1 :])

    def replaced(self, name: str, stage: Stage) -> Pipeline:
        """Puts another stage in a stage's place. Raises `ConfigError` if that is not there."""
        place = self.index(name)
        return Pipeline((*self.stages[:place], stage, *self.stages[place + 1 :]))

    def reordered(self, names: Iterable[str]) -> Pipeline:
        """The same stages in another order.

        Raises:
            ConfigError: The names are not exactly those of the stages.
        """
        wanted = tuple(names)
        places = [self.index(name) for name in wanted]
        if sorted(places) != list(range(len(self.stages))):
            raise ConfigError(f"an order names each of {list(self.names)} once, got {list(wanted)}")
        return Pipeline(tuple(self.stages[place] for place in places))


def _run_stage(stage: Stage, experience: Experience) -> Experience:
    before = experience.counts()
    try:
        after = stage(replace(experience, drops=(), remarks=()))
    except Exception as error:
        raise StageError(f"pipeline stage {stage.name!r} failed: {type(error).__name__}: {error}") from error
    drops, remarks = _by_reason(after.drops), _by_reason(after.remarks)
    report = StageReport(
        stage=stage.name,
        before=before,
        after=after.counts(),
        dropped={reason: len(ids) for reason, ids in drops.items()},
        remarks={reason: len(ids) for reason, ids in remarks.items()},
        ids={reason: tuple(ids[:_IDS]) for reason, ids in (remarks | drops).items()},
    )
    return replace(after, drops=(), remarks=(), reports=(*experience.reports, report))


def _by_reason(found: Iterable[Drop | Remark]) -> dict[str, list[str]]:
    """Ids by reason, sorted by reason; reasons that differ in every case are counted together past a limit."""
    ids: dict[str, list[str]] = {}
    for one in found:
        reason = one.reason if one.reason in ids or len(ids) < _REASONS else _OTHERS
        ids.setdefault(reason, []).append(one.id)
    return dict(sorted(ids.items()))


def _check_name(name: str, known: Iterable[str]) -> None:
    names = sorted(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise ConfigError(f"the pipeline has no stage {name!r}; {hint}")
