"""Which spans of an attempt are one call: chains from what is nearest to the model to the outermost framework."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agentlightning import semconv
from agentlightning.types import Span, SpanSource, SpanStatus

_CALLS: Final = frozenset({semconv.OPERATION_CHAT, semconv.OPERATION_COMPLETION})
"""Operations by which frameworks call models; the gateway calls all of them `chat`."""


class Calls:
    """The model calls among spans, by what they happened in.

    Args:
        spans: With ids that are unique.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._by_id = {span.span_id: span for span in spans}
        self._around: dict[str, Span | None] = {}
        calls = [span for span in spans if span.operation in _CALLS]
        self._served = [span for span in calls if _is_served(span)]
        self._framed = [span for span in calls if not _is_served(span)]

    def chains(self) -> list[list[Span]]:
        """The spans of each call that has several: the one nearest to the model first, the outermost last."""
        free = {
            span.span_id: span for span in self._framed if not span.tokens
        }  # those have been joined before
        chains = {span.span_id: self._climb(span, free) for span in sorted(self._served, key=self._fit)}
        self._pair(chains, free)
        # without a gateway, frameworks on top of each other are one call all the same
        beneath = {around.span_id for span in free.values() if (around := self._answered_by(span))}
        innermost = [span for span in free.values() if span.span_id not in beneath]
        for span in sorted(innermost, key=self._fit):
            del free[span.span_id]
            answered = self._answered_by(span)
            chains[span.span_id] = self._climb(span, free) if answered else [span]
        for span in free.values():  # what is around calls that were all taken
            chains[span.span_id] = [span]
        return [chain for chain in _absorbed(list(chains.values())) if len(chain) > 1]

    def around(self, span: Span) -> Span | None:
        """The framework's call that a span happened in, with only plain operations (an HTTP request, say) between."""
        path: list[str] = []
        near, found = span, None
        while near.span_id not in self._around:
            path.append(near.span_id)
            self._around[near.span_id] = None  # a ring of parents leads nowhere
            parent = self._by_id.get(near.parent_id or "")
            if parent is None:
                break
            if parent.operation in _CALLS and not _is_served(parent):
                found = parent
                break
            if parent.operation != semconv.OPERATION_OTHER:
                break
            near = parent
        else:
            found = self._around[near.span_id]
        for span_id in path:
            self._around[span_id] = found
        return found

    def _climb(self, span: Span, free: dict[str, Span]) -> list[Span]:
        """The span and the framework's calls around it, which are then taken."""
        chain = [span]
        while (around := self.around(chain[-1])) and free.pop(around.span_id, None):
            chain.append(around)
        return chain

    def _answered_by(self, span: Span) -> Span | None:
        """The call around a framework's call that it may be: not the answer of another try than a failed one."""
        around = self.around(span)
        tried = around is not None and span.status is SpanStatus.ERROR is not around.status
        return None if tried else around

    def _pair(self, chains: dict[str, list[Span]], free: dict[str, Span]) -> None:
        """Joins calls that nothing is around to those with the same response id, in order of their starts."""
        by_response: dict[str, deque[Span]] = defaultdict(deque)
        for span in sorted(free.values(), key=_start):
            by_response[_id(span)].append(span)
        for span in sorted(self._served, key=_start):
            waiting = by_response.get(_id(span) or "?")
            while len(chains[span.span_id]) == 1 and waiting:
                partner = waiting.popleft()
                if partner.span_id in free and not self._is_within(partner, span):
                    del free[partner.span_id]
                    chains[span.span_id] = [span, partner, *self._climb(partner, free)[1:]]

    def _is_within(self, span: Span, other: Span) -> bool:
        return any(near.span_id == other.span_id for near in self._upwards(span))

    def _upwards(self, span: Span) -> Iterator[Span]:
        seen: set[str] = set()
        near: Span | None = span
        while near is not None and near.span_id not in seen:
            yield near
            seen.add(near.span_id)
            near = self._by_id.get(near.parent_id or "")

    def _fit(self, span: Span) -> tuple[bool, bool, int, str]:
        """Who chooses first: the same response id as what is around, then no error, then the latest."""
        return (
            not _id(span) or _id(span) != _id(self.around(span)),
            span.status is SpanStatus.ERROR,
            -span.start_ns,
            span.span_id,
        )


def _absorbed(chains: list[list[Span]]) -> list[list[Span]]:
    """The chains, where one that another instrumentation has told of the same call is part of that call's.

    Such calls have one response id and overlap in time, but not one name: a server that gives every answer the same id
    does not make its calls one.
    """
    by_response: dict[str, list[list[Span]]] = defaultdict(list)
    for chain in sorted(chains, key=lambda chain: (not _is_served(chain[0]), _start(chain[-1]))):
        outermost = chain[-1]
        known = by_response[_id(outermost)] if _id(outermost) else []
        twin = next((other for other in known if _tells_the_same(chain, other)), None)
        if twin is None:
            known.append(chain)
        else:
            twin[1:1] = chain  # by name and structure the one that was there counts
            chain.clear()
    return chains


def _tells_the_same(chain: Sequence[Span], other: Sequence[Span]) -> bool:
    if _is_served(chain[0]) or (len(other) == 1 and _is_served(other[0])):
        return False
    if {span.name for span in chain} & {span.name for span in other if not _is_served(span)}:
        return False
    own, theirs = chain[-1], other[-1]
    return own.start_ns <= theirs.end_ns and theirs.start_ns <= own.end_ns


def unique(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Each span once: of several with one id one with tokens, else the one that was stored first."""
    chosen: dict[str, Span] = {}
    for span in spans:
        known = chosen.setdefault(span.span_id, span)
        chosen[span.span_id] = min(known, span, key=lambda one: (not one.tokens, one.sequence))
    return tuple(chosen.values())


def _is_served(span: Span) -> bool:
    return span.source is SpanSource.GATEWAY


def _start(span: Span) -> tuple[int, int, str]:
    return span.start_ns, span.sequence, span.span_id


def _id(span: Span | None) -> str:
    return str(span.attributes.get(semconv.RESPONSE_ID) or "") if span else ""
