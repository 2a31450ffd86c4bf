"""Stage `filter`: rollouts and groups that would train nothing, or the wrong thing, are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeAlias

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._group import leaving_out, without
from agentlightning.types import Drop, Experience, Group, Json, Trajectory

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_TOKEN_BYTES: Final = 4


class FilterParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage; each one that is not given filters nothing.

    Attributes:
        max_staleness: Most updates of the weights that may lie between a call and the newest call that the batch has of
            its run. Versions differ by their updates, but for weights that were loaded: after a rollback or a resume
            updates are counted by way of those that both calls' weights were made from.
        max_tokens: Most tokens of any call of a rollout, prompt and answer.
        max_answer_tokens: Most sampled tokens of a rollout in all.
        max_calls: Most decisions of a rollout.
        zero_variance: Groups in which every rollout earned the same are left out.
        zero_advantage: Groups in which every decision has the same credit are left out: group-relative advantages are
            all 0.
        whole_groups: A group that loses a rollout is left out whole, so that returns are compared within whole groups.
    """

    max_staleness: Count | None = None
    max_tokens: Count | None = None
    max_answer_tokens: Count | None = None
    max_calls: Count | None = None
    zero_variance: bool = False
    zero_advantage: bool = False
    whole_groups: bool = False


class Filter:
    """Leaves out rollouts, first by age and length, then groups in which nothing can be compared.

    A rollout is left out whole, never single calls of it: those that stay would weigh more.
    """

    name = "filter"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, FilterParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        ages = _Ages(experience)
        gone = [
            Drop(id=trajectory.attempt.id, reason=reason)
            for group in experience.groups
            for trajectory in group.trajectories
            if (reason := next(self._reasons(trajectory, ages), ""))
        ]
        if self._params.whole_groups:
            ids = {drop.id for drop in gone}
            gone += [
                Drop(id=one.attempt.id, reason="another rollout of its group was left out")
                for group in experience.groups
                if any(one.attempt.id in ids for one in group.trajectories)
                for one in group.trajectories
                if one.attempt.id not in ids
            ]
        kept = without(experience, gone) if gone else experience
        flat = {group.key: reason for group in kept.groups if (reason := self._flat(group))}
        return leaving_out(kept, flat) if flat else kept

    def _reasons(self, trajectory: Trajectory, ages: _Ages) -> Iterator[str]:
        params = self._params
        answers = 0
        for transition in trajectory.transitions:
            record = transition.tokens
            if record is None:
                continue
            answers += len(record.response) // _TOKEN_BYTES
            if params.max_staleness is not None:
                age = ages.of(trajectory, record.version)
                if age is None:
                    yield "a call is of weights that those of the newest call were not made from"
                elif age > params.max_staleness:
                    yield f"a call is more than {params.max_staleness} versions old"
            tokens = (len(record.prompt) + len(record.response)) // _TOKEN_BYTES
            if params.max_tokens is not None and tokens > params.max_tokens:
                yield f"a call has more than {params.max_tokens} tokens"
        if params.max_answer_tokens is not None and answers > params.max_answer_tokens:
            yield f"more than {params.max_answer_tokens} tokens were sampled"
        if params.max_calls is not None and len(trajectory.transitions) > params.max_calls:
            yield f"more than {params.max_calls} decisions"

    def _flat(self, group: Group) -> str:
        returns = {_return(trajectory) for trajectory in group.trajectories}
        if self._params.zero_variance and len(returns) == 1:
            return "all returns of its group are equal"
        found = {one.credit for trajectory in group.trajectories for one in trajectory.transitions}
        if self._params.zero_advantage and len(found | returns) == 1:
            return "all credits of its group are equal"
        return ""


class _Ages:
    """How old calls are, within the run that each belongs to: numbers of different runs say nothing of each other."""

    def __init__(self, experience: Experience) -> None:
        self._lineages = experience.lineages
        self._newest: dict[str | None, int] = {}
        for trajectory in experience.trajectories:
            run = trajectory.rollout.run_id
            self._newest[run] = max(self._newest.get(run, -1), _newest(trajectory))

    def of(self, trajectory: Trajectory, version: int) -> int | None:
        """Updates between a version and the newest; None if they have nothing in common that is known."""
        run = trajectory.rollout.run_id
        newest = self._newest[run]
        lineage = self._lineages.get(run)
        # a version that nobody knows is -1, and as old as it can be
        if lineage is None or version < 0:
            return newest - version
        return lineage.updates_between(newest, version)


def _newest(trajectory: Trajectory) -> int:
    return max((one.tokens.version for one in trajectory.transitions if one.tokens), default=-1)


def _return(trajectory: Trajectory) -> float | None:
    return trajectory.outcome if trajectory.episode_return is None else trajectory.episode_return
