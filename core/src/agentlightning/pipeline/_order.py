"""Stage `order`: spans in causal order."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from agentlightning.config import decode_params
from agentlightning.types import Experience, Json, Span


class OrderParams(msgspec.Struct, frozen=True, kw_only=True):
    """The stage has no parameters."""


class Order:
    """Puts the spans of each episode in causal order, whatever order they arrived in.

    A parent comes before its children even if the clocks of their machines disagree; otherwise the earlier start comes
    first, then the lower sequence number.
    """

    name = "order"

    def __init__(self, params: Mapping[str, Json]) -> None:
        decode_params(params, OrderParams, where=f"stage {self.name!r}")

    def __call__(self, experience: Experience) -> Experience:
        episodes = (
            msgspec.structs.replace(episode, spans=_causal(episode.spans)) for episode in experience.episodes
        )
        return replace(experience, episodes=tuple(episodes))


def _causal(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    present = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    ready: list[tuple[int, int, str, Span]] = []
    for span in spans:
        if span.parent_id in present:
            children[span.parent_id or ""].append(span)
        else:
            heapq.heappush(ready, _key(span))
    ordered: dict[str, Span] = {}
    while ready:
        span = heapq.heappop(ready)[-1]
        ordered[span.span_id] = span
        for child in children[span.span_id]:
            heapq.heappush(ready, _key(child))
    # spans whose parents form a circle have no causal order: theirs is time
    circular = sorted(
        (span for span in spans if span.span_id not in ordered), key=lambda span: _key(span)[:3]
    )
    return (*ordered.values(), *circular)


def _key(span: Span) -> tuple[int, int, str, Span]:
    return span.start_ns, span.sequence, span.span_id, span
