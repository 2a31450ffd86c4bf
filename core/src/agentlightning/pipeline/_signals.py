"""Stage `signals`: what a decision led to, such as a tool's error, becomes an intermediate reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import msgspec

from agentlightning import semconv
from agentlightning.config import decode_params
from agentlightning.pipeline._belonging import Belonging
from agentlightning.pipeline._lineage import Lineage, decision_key, span_key
from agentlightning.types import Episode, Experience, Json, Remark, Span, SpanStatus, Trajectory

GUARDRAIL: Final = "agl.guardrail.triggered"
"""Set to true on the span of a guard-rail that stopped something."""


class Signal(StrEnum):
    """What can follow a decision."""

    TOOL_ERROR = "tool_error"
    TOOL_OK = "tool_ok"
    REPEATED_TOOL = "repeated_tool"
    CALL_ERROR = "call_error"
    TRUNCATED = "truncated"
    GUARDRAIL = "guardrail"
    ERROR = "error"


class SignalsParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the stage: the reward of each signal. With all 0 the stage does nothing.

    Attributes:
        tool_error: A tool ended with an error.
        tool_ok: A tool ended without one.
        repeated_tool: A tool was called again with the same arguments, by the same agent: a retry.
        call_error: An LLM call failed, whoever is to blame.
        truncated: The answer ended at the limit of tokens.
        guardrail: A guard-rail was triggered.
        error: Any other operation ended with an error; not what merely contains the one that did.
    """

    tool_error: float = 0.0
    tool_ok: float = 0.0
    repeated_tool: float = 0.0
    call_error: float = 0.0
    truncated: float = 0.0
    guardrail: float = 0.0
    error: float = 0.0


class Signals:
    """Adds up signals on the decisions that led to them, in `Transition.signals`.

    What a signal belongs to is said by `Belonging.decision`; where that is no transition it is remarked on. Spans are
    expected in causal order.
    """

    name = "signals"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decoded = decode_params(params, SignalsParams, where=f"stage {self.name!r}")
        weights = {signal: float(getattr(decoded, signal)) for signal in Signal}
        self._weights = {signal: weight for signal, weight in weights.items() if weight}

    def __call__(self, experience: Experience) -> Experience:
        if not self._weights:
            return experience
        episodes = {episode.attempt.id: episode for episode in experience.episodes}
        remarks: list[Remark] = []
        trajectories = tuple(
            self._signalled(trajectory, episodes[trajectory.attempt.id], remarks)
            if trajectory.attempt.id in episodes
            else trajectory
            for trajectory in experience.trajectories
        )
        return replace(experience, trajectories=trajectories, remarks=(*experience.remarks, *remarks))

    def _signalled(self, trajectory: Trajectory, episode: Episode, remarks: list[Remark]) -> Trajectory:
        totals: dict[str, dict[str, float]] = {}
        trained = {decision_key(transition) for transition in trajectory.transitions}
        for span, signal, decision in _Reader(episode).signals():
            if signal not in self._weights:
                continue
            if decision is None or span_key(decision) not in trained:
                remarks.append(Remark(id=span_key(span), reason=f"{signal.value} follows no transition"))
                continue
            found = totals.setdefault(span_key(decision), {})
            found[signal.value] = found.get(signal.value, 0.0) + self._weights[signal]
        return msgspec.structs.replace(
            trajectory,
            transitions=tuple(
                msgspec.structs.replace(one, signals=dict(sorted(totals[decision_key(one)].items())))
                if decision_key(one) in totals
                else one
                for one in trajectory.transitions
            ),
        )


@dataclass
class _Reader:
    """One pass over the spans of an episode, in order."""

    episode: Episode
    _tools: dict[str, tuple[Json, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lineage = Lineage(self.episode.spans)
        self._belonging = Belonging(self.episode.spans)
        self._failing = {
            span.parent_id
            for span in self.episode.spans
            if span.status is SpanStatus.ERROR and span.parent_id
        }

    def signals(self) -> Iterator[tuple[Span, Signal, Span | None]]:
        """Each signal with its span and the decision that it belongs to; None if there is none."""
        for span in self.episode.spans:
            for signal in self._of(span, self._lineage.agent(span)):
                yield span, signal, self._belonging.decision(span)

    def _of(self, span: Span, agent: str) -> Iterator[Signal]:
        failed = span.status is SpanStatus.ERROR
        if span.attributes.get(GUARDRAIL):
            yield Signal.GUARDRAIL
        if span.operation == semconv.OPERATION_TOOL:
            yield Signal.TOOL_ERROR if failed else Signal.TOOL_OK
            called = (
                span.attributes.get(semconv.TOOL_NAME) or span.name,
                span.attributes.get(semconv.TOOL_CALL_ARGUMENTS),
            )
            if self._tools.get(agent) == called:
                yield Signal.REPEATED_TOOL
            self._tools[agent] = called
        elif span.operation == semconv.OPERATION_CHAT:
            if failed:
                yield Signal.CALL_ERROR
            if any(record.finish_reason == "length" for record in span.tokens):
                yield Signal.TRUNCATED
        elif failed and span.span_id not in self._failing:
            yield Signal.ERROR
