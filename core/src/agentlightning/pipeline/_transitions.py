"""Stage `transitions`: LLM calls, decisions and actions become transitions of trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.pipeline._lineage import DECISIVE, Lineage, model_of, span_key
from agentlightning.types import (
    Drop,
    Episode,
    Experience,
    Json,
    Span,
    SpanStatus,
    TokenRecord,
    Trajectory,
    Transition,
)

INCOMPLETE: Final = "incomplete call: "
"""What the reason begins with when a call was left out because its tokens are not all there."""


class TransitionsParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Transitions:
    """Makes one trajectory of each episode: a transition per sampled answer, `agl.decide` and emitted action.

    Calls that failed are no decisions. Calls without complete tokens, and decisions that the stage `select` made part
    of the environment, are left out and counted; a trajectory without transitions stays, because its reward still
    counts for its group.
    """

    name = "transitions"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, TransitionsParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        walks = [_Walk(episode=one, environment=experience.environment) for one in experience.episodes]
        trajectories = tuple(walk.trajectory() for walk in walks)
        drops = tuple(drop for walk in walks for drop in walk.drops)
        return replace(experience, trajectories=trajectories, drops=(*experience.drops, *drops))


@dataclass(kw_only=True)
class _Walk:
    """One pass over the spans of an episode."""

    episode: Episode
    environment: Mapping[str, str]
    drops: list[Drop] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lineage = Lineage(self.episode.spans)
        self._emitted: Json = None

    def trajectory(self) -> Trajectory:
        found = [transition for span in self.episode.spans for transition in self._of(span)]
        return Trajectory(
            rollout=self.episode.rollout,
            attempt=self.episode.attempt,
            transitions=tuple(
                msgspec.structs.replace(transition, index=index) for index, transition in enumerate(found)
            ),
        )

    def _of(self, span: Span) -> Iterator[Transition]:
        if span.operation == semconv.OPERATION_STATE:
            self._emitted = span.attributes.get(semconv.STATE)
        if span.operation not in DECISIVE or span.status is SpanStatus.ERROR:
            return
        agent = self._lineage.agent(span)
        if reason := self.environment.get(span_key(span)):
            self._drop(span, reason)
        elif span.operation == semconv.OPERATION_CHAT:
            yield from self._calls(span, agent)
        else:
            yield self._transition(span, agent=agent, action=_action(span))

    def _calls(self, span: Span, agent: str) -> Iterator[Transition]:
        outputs = span.attributes.get(semconv.OUTPUT_MESSAGES)
        messages = outputs if isinstance(outputs, list) else [outputs]
        if not span.tokens:
            reason = span.attributes.get(semconv.INCOMPLETE) or "no tokens were recorded"
            self._drop(span, f"{INCOMPLETE}{reason}")
        for choice, record in enumerate(span.tokens):
            if gap := _gap(record):
                self._drop(span, f"{INCOMPLETE}{gap}")
                continue
            yield self._transition(
                span,
                agent=agent,
                action=messages[choice] if choice < len(messages) else None,
                tokens=record,
                choice=choice if len(span.tokens) > 1 else None,
            )

    def _transition(
        self,
        span: Span,
        *,
        agent: str,
        action: Json,
        tokens: TokenRecord | None = None,
        choice: int | None = None,
    ) -> Transition:
        suffix = "" if choice is None else f":{choice}"
        return Transition(
            id=f"{span_key(span)}{suffix}",
            rollout_id=span.rollout_id,
            index=0,
            agent=agent,
            location=self._lineage.location(span),
            state=_state(span, self._emitted),
            action=action,
            tokens=tokens,
            model=model_of(span),
        )

    def _drop(self, span: Span, reason: str) -> None:
        self.drops.append(Drop(id=span_key(span), reason=reason))


def _gap(record: TokenRecord) -> str:
    """Why a record cannot be trained on; empty if it can."""
    if record.incomplete:
        return record.incomplete
    if len(record.response) != len(record.logprobs):
        return "ids and log-probabilities differ in length"
    return "" if record.response else "the answer has no tokens"


def _state(span: Span, emitted: Json) -> Json:
    parts = {
        "messages": span.attributes.get(semconv.INPUT_MESSAGES),
        "tools": span.attributes.get(semconv.TOOL_DEFINITIONS),
        "options": span.attributes.get(semconv.DECISION_OPTIONS),
        "context": span.attributes.get(semconv.STATE)
        if span.operation == semconv.OPERATION_DECISION
        else None,
        "emitted": emitted,
    }
    return {name: value for name, value in parts.items() if value is not None} or None


def _action(span: Span) -> Json:
    if span.operation == semconv.OPERATION_ACTION:
        return span.attributes.get(semconv.ACTION)
    parts = {
        "name": span.attributes.get(semconv.DECISION_NAME),
        "choice": span.attributes.get(semconv.DECISION_CHOICE),
        "propensity": span.attributes.get(semconv.DECISION_PROPENSITY),
    }
    return {name: value for name, value in parts.items() if value is not None}
