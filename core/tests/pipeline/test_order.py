"""Stage `order` puts spans in causal order, whatever their clocks say."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.pipeline import Stage
from agentlightning.pipeline._order import Order
from agentlightning.testing import EpisodeBuilder, StageContract
from agentlightning.types import Episode, Experience, Json, Span


class TestOrder(StageContract):
    def create(self, params: Mapping[str, Json]) -> Stage:
        return Order(params)


def ordered(episode: Episode) -> tuple[Span, ...]:
    return Order({})(Experience(episodes=(episode,))).episodes[0].spans


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 12)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_parents_come_first_then_earlier_starts_and_nothing_is_lost(
    shape: list[tuple[int, int]], rng: random.Random
) -> None:
    build = EpisodeBuilder()
    for start, parent in shape:
        build.span("agl.message", parent=f"{parent:016x}", start_ns=start)
    episode = build.build()
    mixed = rng.sample(episode.spans, len(episode.spans))
    found = ordered(msgspec.structs.replace(episode, spans=tuple(mixed)))
    assert sorted(span.span_id for span in found) == sorted(span.span_id for span in episode.spans)
    places = {span.span_id: place for place, span in enumerate(found)}
    parents = {span.span_id: span.parent_id or "" for span in found}
    for span in found:
        if _rooted(span.span_id, parents) and span.parent_id in places:
            assert places[span.parent_id] < places[span.span_id]
    for one, other in pairwise(found):
        siblings = one.parent_id == other.parent_id
        if siblings and _rooted(one.span_id, parents) and _rooted(other.span_id, parents):
            assert (one.start_ns, one.sequence) < (other.start_ns, other.sequence)


def _rooted(span_id: str, parents: dict[str, str]) -> bool:
    """Whether the parents of a span lead somewhere, and not round in a circle."""
    seen: set[str] = set()
    while span_id in parents:
        if span_id in seen:
            return False
        seen.add(span_id)
        span_id = parents[span_id]
    return True
