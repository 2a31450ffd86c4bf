"""Stage `select`: which decisions are trained; the rest becomes environment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.pipeline._lineage import DECISIVE, Lineage, model_of, span_key
from agentlightning.types import Episode, Experience, Json, Remark, Span


class SelectParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage; each empty one selects all.

    Attributes:
        agents: Names of the agents to train.
        models: Models whose calls are trained; decisions without a model are not touched by this.
        operations: Kinds of decision to train: LLM calls, `agl.decide`, `agl.emit_action`.
    """

    agents: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    operations: tuple[Literal["chat", "agl.decision", "agl.action"], ...] = ()


class Select:
    """Marks decisions that are not trained as environment; the stage `transitions` leaves them out with the reason.

    Their spans stay: what others did is part of the state, and rewards for the whole count as before. An agent or model
    that is named and never decides anything is remarked on.
    """

    name = "select"

    def __init__(self, params: Mapping[str, Json]) -> None:
        self._params = decode_params(params, SelectParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        if self._params == SelectParams():
            return experience
        agents: set[str] = set()
        models: set[str] = set()
        environment = dict(experience.environment)
        for span, agent in _decisions(experience.episodes):
            agents.add(agent)
            models.add(model_of(span))
            if reason := self._reason(span, agent):
                environment[span_key(span)] = reason
        remarks = (
            *_missing("agent", self._params.agents, found=agents),
            *_missing("model", self._params.models, found=models),
        )
        return replace(experience, environment=environment, remarks=(*experience.remarks, *remarks))

    def _reason(self, span: Span, agent: str) -> str:
        """Why a decision is not trained; empty if it is."""
        params = self._params
        if params.operations and span.operation not in params.operations:
            return f"operation {span.operation!r} is not trained"
        if params.agents and agent not in params.agents:
            return f"agent {agent!r} is not trained"
        model = model_of(span)
        if params.models and model and model not in params.models:
            return f"model {model!r} is not trained"
        return ""


def _decisions(episodes: tuple[Episode, ...]) -> Iterator[tuple[Span, str]]:
    """Each span in which something is decided, and by whom."""
    for episode in episodes:
        lineage = Lineage(episode.spans)
        for span in episode.spans:
            if span.operation in DECISIVE:
                yield span, lineage.agent(span)


def _missing(noun: str, wanted: tuple[str, ...], *, found: Collection[str]) -> Iterator[Remark]:
    """Names that select nothing; without any decision there is nothing to say."""
    for name in wanted:
        if found and name not in found:
            there = ", ".join(repr(one) for one in sorted(found)[:5])
            yield Remark(id=name, reason=f"no decision is by {noun} {name!r}; there are {there}")
