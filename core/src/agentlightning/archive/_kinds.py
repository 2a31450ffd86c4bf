"""The kinds of records that an archive has, each in a file of its own."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from agentlightning.store import (
    AttemptRecord,
    EventRecord,
    MetricRecord,
    Record,
    ResourceSetRecord,
    RolloutRecord,
    RunRecord,
    SpanRecord,
)
from agentlightning.types import Reward


class Kind(StrEnum):
    """What a file of an archive has, in the order in which a store takes it in."""

    RUNS = "runs"
    METRICS = "metrics"
    EVENTS = "events"
    RESOURCE_SETS = "resource_sets"
    ROLLOUTS = "rollouts"
    ATTEMPTS = "attempts"
    SPANS = "spans"
    REWARDS = "rewards"


class Layout(StrEnum):
    """How an archive is written.

    Attributes:
        JSONL: Lines of JSON, one per record; bytes are base64.
        PARQUET: Tables, with token ids and log-probabilities as columns of lists.
        OTLP: Spans only, as OpenTelemetry's JSON, for other tools.
    """

    JSONL = "jsonl"
    PARQUET = "parquet"
    OTLP = "otlp"


Item: TypeAlias = Record | Reward
"""What an archive has: records to load, and rewards to look at (they are loaded with their spans)."""

RECORDS: Final[dict[Kind, type[Record]]] = {
    Kind.RUNS: RunRecord,
    Kind.METRICS: MetricRecord,
    Kind.EVENTS: EventRecord,
    Kind.RESOURCE_SETS: ResourceSetRecord,
    Kind.ROLLOUTS: RolloutRecord,
    Kind.ATTEMPTS: AttemptRecord,
    Kind.SPANS: SpanRecord,
}
"""The kinds that are loaded."""
